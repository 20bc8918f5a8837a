// A server that a test starts, with a log of its own: ended with the test, however that ends.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace ballot::test {

class ServerProcess {
 public:
  // words[0]: a path, or a name in PATH. `variables`: "NAME=value", added to the environment.
  ServerProcess(std::vector<std::string> words, std::string log,
                std::vector<std::string> variables = {})
      : name_(words[0]), log_(std::move(log)) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const int output = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const pid_t parent = ::getpid();
    id_ = ::fork();
    if (id_ == 0) {
      ::setpgid(0, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(126);
      ::dup2(output, STDOUT_FILENO);
      ::dup2(output, STDERR_FILENO);
      for (std::string& variable : variables) ::putenv(variable.data());
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(output);
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;
  ~ServerProcess() { end(SIGKILL); }

  pid_t id() const { return id_; }
  void end(int signal = SIGTERM) {
    if (id_ <= 0) return;
    ::kill(id_, signal);
    ::waitpid(id_, nullptr, 0);
    id_ = -1;
  }
  std::string log() const {
    std::ifstream file(log_);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // Throws, with its log, where it ends or `ready` does not hold within 30 s: these tests are not
  // skipped for a server that does not start.
  void wait_until(const std::function<bool()>& ready) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!ready()) {
      int status = 0;
      if (::waitpid(id_, &status, WNOHANG) == id_) {
        id_ = -1;
        throw std::runtime_error(WIFEXITED(status) && WEXITSTATUS(status) == 127
                                     ? "there is no " + name_ + " here: install its package"
                                     : name_ + " ended: " + log());
      }
      if (std::chrono::steady_clock::now() > limit)
        throw std::runtime_error(name_ + " is not ready after 30 s: " + log());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

 private:
  const std::string name_, log_;
  pid_t id_ = -1;
};

}  // namespace ballot::test
