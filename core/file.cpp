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

// Of a file that grows from front to back: whenever another piece of it is full, the disk may begin
// with that piece, so that the fsync at the end has little left to wait for.
void begin_writing_back(int descriptor, std::uint64_t before, std::uint64_t after) {
  constexpr std::uint64_t kPiece = std::uint64_t{32} << 20;
  const std::uint64_t begin = before / kPiece * kPiece, end = after / kPiece * kPiece;
  if (begin < end)
    ::sync_file_range(descriptor, static_cast<off_t>(begin), static_cast<off_t>(end - begin),
                      SYNC_FILE_RANGE_WRITE);  // a hint: what it cannot do the fsync does
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

InputFile::InputFile(const std::string& path)
    : path_(path), descriptor_(open_or_throw(path, O_RDONLY)) {}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void InputFile::read(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got =
        ::pread(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_file_error("read", path_);
    if (got == 0)
      throw CorruptFile("{} ends at byte {}, expected {} more", path_, offset, bytes.size());
    offset += static_cast<std::uint64_t>(got);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
}

void InputFile::expect(std::uint64_t offset, std::uint64_t size) const {
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(size),
                  POSIX_FADV_WILLNEED);  // a hint: nothing is lost where it is not taken
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
    begin_writing_back(descriptor_, written_bytes_,
                       written_bytes_ + static_cast<std::uint64_t>(put));
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

void make_folders(const std::string& path) {
  const std::filesystem::path folder(path);
  std::error_code error;
  if (path.empty() || std::filesystem::is_directory(folder, error)) return;
  const std::string above = folder.parent_path().string();
  make_folders(above);
  std::filesystem::create_directory(folder, error);  // no error where somebody made it meanwhile
  if (error) throw FileError("cannot make the folder {}: {}", path, error.message());
  sync_folder(above);
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
