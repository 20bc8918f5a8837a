#include "runtime/watching/record_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "core/error.h"
#include "core/log.h"

namespace ballot {
namespace {

constexpr std::array<std::uint32_t, 256> kTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit)  // Castagnoli's polynomial, reflected
      value = value >> 1 ^ ((value & 1) != 0 ? 0x82f63b78u : 0u);
    table[i] = value;
  }
  return table;
}();

std::uint32_t masked(std::uint32_t checksum) {
  return (checksum >> 15 | checksum << 17) + 0xa282ead8u;
}

void append_little_endian(std::uint64_t value, int bytes, std::string& to) {
  for (int i = 0; i < bytes; ++i) to.push_back(static_cast<char>(value >> 8 * i & 0xff));
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t value = ~0u;
  for (const char c : bytes)
    value = value >> 8 ^ kTable[(value ^ static_cast<unsigned char>(c)) & 0xff];
  return ~value;
}

std::string tf_record(std::string_view bytes) {
  std::string record;
  record.reserve(bytes.size() + 16);
  append_little_endian(bytes.size(), 8, record);
  append_little_endian(masked(crc32c(record)), 4, record);
  record += bytes;
  append_little_endian(masked(crc32c(bytes)), 4, record);
  return record;
}

RecordFile::RecordFile(const std::string& path)
    : path_(path),
      descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644)) {
  if (descriptor_ < 0) throw_file_error("open", path_);
}

RecordFile::~RecordFile() {
  ::close(descriptor_);
}

void RecordFile::append(std::string_view bytes) {
  const std::string record = tf_record(bytes);
  std::size_t written = 0;
  while (written < record.size()) {
    const ssize_t count = ::write(descriptor_, record.data() + written, record.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int why = count < 0 ? errno : ENOSPC;
      if (written > 0 && ::ftruncate(descriptor_, size_) != 0)
        log_warning("{}: its last record is torn", path_);
      errno = why;
      throw_file_error("write", path_);
    }
    written += static_cast<std::size_t>(count);
  }
  size_ += static_cast<std::int64_t>(record.size());
}

}  // namespace ballot
