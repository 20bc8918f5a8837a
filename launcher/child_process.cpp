// fork, exec and wait; a failed exec comes back as errno through a pipe.
#include "launcher/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "core/error.h"  // require, throw_file_error

namespace ballot {

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    close();
    number_ = std::exchange(other.number_, -1);
  }
  return *this;
}

void Descriptor::close() {
  if (number_ >= 0) ::close(std::exchange(number_, -1));
}

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_file_error("make a pipe", "pipe");
  Pipe pipe{Descriptor(ends[0]), Descriptor(ends[1])};
  if (::fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) throw_file_error("set up a pipe", "pipe");
  return pipe;
}

std::optional<std::string> find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  const std::string folders = path ? path : "/usr/bin:/bin";
  for (std::size_t begin = 0; begin <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', begin), folders.size());
    const std::string file = folders.substr(begin, end - begin) + "/" + name;
    if (end > begin && ::access(file.c_str(), X_OK) == 0) return file;
    begin = end + 1;
  }
  return std::nullopt;
}

ChildProcess::ChildProcess(const std::vector<std::string>& command, int output, int error_output,
                           int given_input) {
  require(!command.empty(), "a child process without a command");
  // Made before the fork: the child may only call what is safe in a signal handler.
  std::vector<char*> arguments;
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  Pipe failure = make_pipe();
  const pid_t parent = ::getpid();

  id_ = ::fork();
  if (id_ < 0) throw_file_error("start", command[0]);
  if (id_ == 0) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(127);  // the parent died before the line above
    sigset_t none;
    ::sigemptyset(&none);
    ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
    const int input = given_input >= 0 ? given_input : ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input >= 0 && ::dup2(input, 0) >= 0 && ::dup2(output, 1) >= 0 &&
        ::dup2(error_output, 2) >= 0)
      ::execv(arguments[0], arguments.data());
    const int reason = errno;
    [[maybe_unused]] const ssize_t written =
        ::write(failure.target.number(), &reason, sizeof reason);
    ::_exit(127);
  }
  ::setpgid(id_, id_);  // also here: whoever comes first; EACCES after the child's exec is fine
  failure.target.close();
  ::fcntl(failure.source.number(), F_SETFL, 0);
  int reason = 0;
  ssize_t count;
  do count = ::read(failure.source.number(), &reason, sizeof reason);
  while (count < 0 && errno == EINTR);
  if (count == sizeof reason) {
    ::waitpid(id_, nullptr, 0);
    errno = reason;
    throw_file_error("start", command[0]);
  }
}

ChildProcess::~ChildProcess() {
  if (has_ended()) return;
  send_group(SIGKILL);
  while (::waitpid(id_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool ChildProcess::has_ended() {
  if (status_) return true;
  int status = 0;
  if (::waitpid(id_, &status, WNOHANG) == id_) status_ = status;
  return status_.has_value();
}

int ChildProcess::exit_code() const {
  require(status_.has_value(), "the exit code of process {}, which still runs", id_);
  return WIFEXITED(*status_) ? WEXITSTATUS(*status_) : 128 + WTERMSIG(*status_);
}

void ChildProcess::send(int signal) {
  if (!status_) ::kill(id_, signal);
}

void ChildProcess::send_group(int signal) {
  if (!status_) ::kill(-id_, signal);
}

}  // namespace ballot
