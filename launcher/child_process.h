// A child process started with its own process group and streams, and the descriptors and pipes
// that lead to it.
//
// The child gets SIGTERM when the thread that started it dies, so it cannot outlive the program.
// Its signal mask is empty whatever the caller has blocked. Everything here is closed on exec
// unless it is given to the child.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ballot {

// Owns a file descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor() { close(); }

  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }
  void close();

 private:
  int number_ = -1;
};

struct Pipe {
  Descriptor source;  // reads do not block
  Descriptor target;
};
Pipe make_pipe();

// The program's path by PATH, or nothing.
std::optional<std::string> find_program(const std::string& name);

class ChildProcess {
 public:
  // Starts command[0] (a path) with standard input from `input` (-1: /dev/null) and the two outputs
  // given. Throws FileError when it cannot be started.
  ChildProcess(const std::vector<std::string>& command, int output, int error_output,
               int input = -1);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();  // kills its process group if it still runs, and reaps it

  pid_t id() const { return id_; }
  bool has_ended();  // does not block
  // 0..255 as the child left it, or 128 + the signal that ended it. Only after has_ended().
  int exit_code() const;
  void send(int signal);        // to the child alone; nothing once it has ended
  void send_group(int signal);  // to all of its process group

 private:
  pid_t id_ = -1;
  std::optional<int> status_;
};

}  // namespace ballot
