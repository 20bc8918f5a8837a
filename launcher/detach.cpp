#include "launcher/detach.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "core/error.h"
#include "launcher/child_process.h"  // Descriptor

namespace ballot {

bool detach(const std::string& log) {
  const Descriptor file(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)),
      nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!file.is_open() || !nothing.is_open()) throw_file_error("open", log);
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw_file_error("fork", "the launcher");
  if (child > 0) return true;
  ::setsid();
  ::dup2(nothing.number(), STDIN_FILENO);
  ::dup2(file.number(), STDOUT_FILENO);
  ::dup2(file.number(), STDERR_FILENO);
  return false;
}

}  // namespace ballot
