#include "core/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "core/error.h"

namespace ballot {

FileLock::FileLock(const std::string& path, const std::string& what) {
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file_ < 0) throw_file_error("open", path);
  if (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
    const int why = errno;
    std::array<char, 32> text{};
    const ssize_t length = ::read(file_, text.data(), text.size() - 1);
    ::close(file_);
    errno = why;
    if (why != EWOULDBLOCK) throw_file_error("lock", path);
    std::string holder(text.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
    while (!holder.empty() && (holder.back() == '\n' || holder.back() < ' ')) holder.pop_back();
    throw ConfigError("{} is in use by process {} ({} is locked)", what,
                      holder.empty() ? "of another machine" : holder, path);
  }
  const std::string mine = fmt::format("{}\n", ::getpid());
  if (::ftruncate(file_, 0) != 0 || ::pwrite(file_, mine.data(), mine.size(), 0) < 0) {
    ::close(file_);
    throw_file_error("write", path);
  }
}

FileLock::~FileLock() {
  if (file_ >= 0) ::close(file_);
}

}  // namespace ballot
