// The real `ballot` as a child process: started with arguments and an environment of its own,
// waited for with a limit.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace ballot {

using Environment = std::vector<std::pair<std::string, std::string>>;

inline constexpr int kTimedOut = -1;

struct Ended {
  int exit_code;  // as a shell would say it: 128 + n after signal n; kTimedOut when it had to be
                  // killed
  std::string output;  // standard output and standard error, as they came
};

class Command {
 public:
  // Starts it in `folder`, in a process group of its own. `variables` are added to an environment
  // without those by which schedulers and mpirun tell a process its rank.
  Command(const std::vector<std::string>& arguments, const std::string& folder,
          const Environment& variables = {});
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  ~Command();  // kills it, and the workers under it, if they still run

  pid_t id() const { return id_; }
  bool is_running();
  void send(int signal) const;
  std::string output() const;  // so far
  Ended wait(std::chrono::milliseconds limit);
  // The process of worker `rank` below this `ballot launch`, or 0 where there is none (yet).
  pid_t worker(int rank) const;
  // A child whose command line has `flag` and after it `value`, or 0.
  pid_t child(const std::string& flag, const std::string& value) const;

 private:
  void kill_all();
  pid_t id_ = -1;
  std::string output_file_;
  int exit_code_ = kTimedOut;
  bool ended_ = false;
};

// Runs it to its end.
Ended run_command(const std::vector<std::string>& arguments, const std::string& folder,
                  const Environment& variables = {});

bool is_alive(pid_t id);  // a zombie is dead
// Looks every few milliseconds whether it holds.
bool within(std::chrono::milliseconds limit, const std::function<bool()>& holds);

}  // namespace ballot
