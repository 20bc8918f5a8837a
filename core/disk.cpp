// The machine's disk: POSIX calls, each error with its path.
#include "core/disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

int open_file(const std::string& path, int flags) {
  int descriptor = -1;
  do descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) throw_file_error("open", path);
  return descriptor;
}

// Closes on every way out.
class OpenFile {
 public:
  OpenFile(const std::string& path, int flags) : path_(path), descriptor_(open_file(path, flags)) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { ::close(descriptor_); }

  int get() const { return descriptor_; }
  const std::string& path() const { return path_; }
  std::uint64_t size_bytes() const {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) throw_file_error("stat", path_);
    if (!S_ISREG(status.st_mode)) throw FileError("{} is not a regular file", path_);
    return static_cast<std::uint64_t>(status.st_size);
  }
  void sync() const {
    if (::fsync(descriptor_) != 0) throw_file_error("fsync", path_);
  }

 private:
  std::string path_;
  int descriptor_;
};

class SystemAppendFile final : public AppendFile {
 public:
  explicit SystemAppendFile(const std::string& path)
      : file_(path, O_WRONLY | O_CREAT | O_APPEND), size_(file_.size_bytes()) {}

  void append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const ssize_t put = ::write(file_.get(), bytes.data(), bytes.size());
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) throw_file_error("write", file_.path());
      size_ += static_cast<std::uint64_t>(put);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
  }
  void sync() override { file_.sync(); }
  std::uint64_t size_bytes() const override { return size_; }

 private:
  OpenFile file_;
  std::uint64_t size_;
};

class SystemDisk final : public Disk {
 public:
  std::vector<std::string> list(const std::string& folder) override {
    std::vector<std::string> names;
    std::error_code error;
    fs::directory_iterator entry(folder, error);
    if (error == std::errc::no_such_file_or_directory) return names;
    for (; !error && entry != fs::directory_iterator(); entry.increment(error))
      names.push_back(entry->path().filename().string());
    if (error) throw FileError("cannot list {}: {}", folder, error.message());
    std::sort(names.begin(), names.end());
    return names;
  }

  std::uint64_t size_bytes(const std::string& path) override {
    return OpenFile(path, O_RDONLY).size_bytes();
  }

  std::vector<std::byte> read(const std::string& path, std::uint64_t offset,
                              std::uint64_t size) override {
    const OpenFile file(path, O_RDONLY);
    const std::uint64_t length = file.size_bytes();
    std::vector<std::byte> bytes(
        static_cast<std::size_t>(offset >= length ? 0 : std::min(size, length - offset)));
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t got = ::pread(file.get(), bytes.data() + done, bytes.size() - done,
                                  static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw_file_error("read", path);
      if (got == 0) break;  // cut by somebody meanwhile
      done += static_cast<std::size_t>(got);
    }
    bytes.resize(done);
    return bytes;
  }

  std::unique_ptr<AppendFile> open_append(const std::string& path) override {
    return std::make_unique<SystemAppendFile>(path);
  }

  void truncate(const std::string& path, std::uint64_t size) override {
    const OpenFile file(path, O_WRONLY);
    const std::uint64_t length = file.size_bytes();
    require(size <= length, "cutting {} of {} bytes to {}", path, length, size);
    if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) throw_file_error("truncate", path);
    file.sync();
  }

  void make_folder(const std::string& path) override {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) throw FileError("cannot make the folder {}: {}", path, error.message());
  }

  void rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) throw_file_error("rename", from);
  }

  void remove(const std::string& path) override {
    std::error_code error;
    const std::uintmax_t removed = fs::remove_all(path, error);
    if (error) throw FileError("cannot remove {}: {}", path, error.message());
    if (removed == 0) throw FileError("cannot remove {}: there is no such file", path);
  }

  void sync_folder(const std::string& path) override { ballot::sync_folder(path); }
};

}  // namespace

Disk& system_disk() {
  static SystemDisk disk;
  return disk;
}

}  // namespace ballot
