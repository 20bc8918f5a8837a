#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace ballot {
namespace {

// Closes on every way out.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const { return value_; }

 private:
  int value_;
};

int open_or_throw(const std::string& path, int flags) {
  int descriptor;
  do descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) throw_file_error("open", path);
  return descriptor;
}

struct stat status_of(int descriptor, const std::string& path) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) throw_file_error("stat", path);
  return status;
}

void sync_or_throw(int descriptor, const std::string& path) {
  // A failed fsync is final: the kernel may have dropped the dirty pages, so it is not tried again.
  if (::fsync(descriptor) != 0) throw_file_error("fsync", path);
}

}  // namespace

std::string read_file(const std::string& path, std::uint64_t max_bytes) {
  const Descriptor file(open_or_throw(path, O_RDONLY));
  const struct stat status = status_of(file.get(), path);
  const auto too_large = [&](std::uint64_t size) {
    return FileError("{} has {} bytes or more, expected at most {}", path, size, max_bytes);
  };
  const std::uint64_t expected =
      S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0;
  if (expected > max_bytes) throw too_large(expected);

  // Pipes and /proc files do not say their size, so read until the end, in growing pieces.
  std::string text;
  std::size_t size = 0;
  text.resize(expected + 1);
  while (true) {
    if (size == text.size()) text.resize(std::max<std::size_t>(2 * size, 65536));
    const ssize_t got = ::read(file.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_file_error("read", path);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size > max_bytes) throw too_large(size);
  }
  text.resize(size);
  return text;
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file(open_or_throw(path, O_RDONLY));
  const struct stat status = status_of(file.get(), path);
  if (!S_ISREG(status.st_mode)) throw FileError("{} is not a regular file", path);
  size_bytes_ = static_cast<std::size_t>(status.st_size);
  if (size_bytes_ == 0) return;  // nothing to map; mmap refuses length 0
  void* mapping = ::mmap(nullptr, size_bytes_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (mapping == MAP_FAILED) throw_file_error("map", path);
  ::madvise(mapping, size_bytes_, MADV_SEQUENTIAL);
  data_ = static_cast<const std::byte*>(mapping);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_bytes_);
}

OutputFile::OutputFile(const std::string& path)
    : path_(path), descriptor_(open_or_throw(path, O_WRONLY | O_CREAT | O_TRUNC)) {}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      written_bytes_(other.written_bytes_) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(written_bytes_, other.written_bytes_);
  return *this;
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::write(std::span<const std::byte> bytes) {
  require(descriptor_ >= 0, "write to {} after finish()", path_);
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_file_error("write", path_);
    written_bytes_ += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void OutputFile::finish() {
  require(descriptor_ >= 0, "finish() of {} twice", path_);
  sync_or_throw(descriptor_, path_);
  if (::close(std::exchange(descriptor_, -1)) != 0) throw_file_error("close", path_);
}

void write_file_synced(const std::string& path, std::span<const std::byte> bytes) {
  OutputFile file(path);
  file.write(bytes);
  file.finish();
}

void write_file_synced(const std::string& path, std::string_view text) {
  write_file_synced(path, std::as_bytes(std::span(text)));
}

void sync_folder(const std::string& path) {
  const Descriptor folder(open_or_throw(path.empty() ? "." : path, O_RDONLY | O_DIRECTORY));
  sync_or_throw(folder.get(), path);
}

void replace_file_atomically(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".tmp";
  try {
    write_file_synced(temporary, text);
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw_file_error("rename", temporary);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder(std::filesystem::path(path).parent_path().string());
}

}  // namespace ballot
