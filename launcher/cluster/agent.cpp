// One thread and one poll(): the launcher's words, signals, the command's end.
#include "launcher/cluster/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "launcher/child_process.h"
#include "launcher/line_output.h"  // write_all
#include "launcher/signals.h"

namespace ballot {
namespace {

constexpr Duration kOrderPatience = std::chrono::seconds(60);

class Agent {
 public:
  Agent(int input, int output) : signals_({SIGHUP}), input_(input), output_(output) {
    ::fcntl(input_, F_SETFL, ::fcntl(input_, F_GETFL) | O_NONBLOCK);
  }

  int run() {
    int code = 0;
    try {
      order_ = await_order();
      code = carry_out();
    } catch (const std::exception& failure) {
      const Failure described = describe_failure(failure);
      log_error("{}", described.message);
      code = static_cast<int>(described.exit_code);
    }
    write_all(output_, encode_end(code));  // a launcher that is gone hears nothing
    return code;
  }

 private:
  AgentOrder await_order() {
    const Deadline deadline = Deadline::in(kOrderPatience);
    while (true) {
      if (const std::size_t end = words_.find('\n'); end != std::string::npos) {
        const AgentOrder order = decode_order(std::string_view(words_).substr(0, end));
        words_.erase(0, end + 1);
        return order;
      }
      if (input_ended_ || words_.size() > kLongestOrder)
        throw ConfigError(
            "ballot agent: no order on standard input; it is what `ballot launch` starts on other "
            "machines");
      if (deadline.passed())
        throw Timeout("ballot agent: waited {:g} s for a launcher's order",
                      seconds(kOrderPatience));
      wait();
      while (const int signal = signals_.next())
        if (signal != SIGCHLD) throw Timeout("ballot agent: ended by signal {}", signal);
    }
  }

  int carry_out() {
    if (!order_.folder.empty() && ::chdir(order_.folder.c_str()) != 0)
      throw ConfigError(
          "the folder {} is not on this machine ({}); a job runs in the folder that it is launched "
          "from, which all its machines have to see",
          order_.folder, std::strerror(errno));
    std::string& program = order_.command[0];
    if (program.find('/') == std::string::npos)
      if (const auto path = find_program(program)) program = *path;
    if (::access(program.c_str(), X_OK) != 0)
      throw ConfigError("{} is not on this machine ({}); name the program there with --program",
                        program, std::strerror(errno));
    for (const auto& [name, value] : order_.environment) ::setenv(name.c_str(), value.c_str(), 1);
    child_ = std::make_unique<ChildProcess>(order_.command, output_, STDERR_FILENO);
    heard();
    while (!child_->has_ended()) {
      wait();
      pass_on();
      while (const int signal = signals_.next())
        if (signal != SIGCHLD) leave();
      if (input_ended_ || silence_.passed()) leave();
      if (end_.passed()) {
        child_->send_group(SIGKILL);
        end_ = {};
      }
    }
    child_->send_group(SIGKILL);  // what it has left behind
    return child_->exit_code();
  }

  void wait() {
    std::array<pollfd, 2> waits{{{signals_.descriptor(), POLLIN, 0}, {input_, POLLIN, 0}}};
    if (::poll(waits.data(), input_ended_ ? 1 : 2, 100) < 0 && errno != EINTR)
      throw_file_error("wait for", "the launcher");
    std::array<char, 4096> bytes;
    while (!input_ended_ && words_.size() <= kLongestOrder) {
      const ssize_t count = ::read(input_, bytes.data(), bytes.size());
      if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (count <= 0)
        input_ended_ = true;
      else
        words_.append(bytes.data(), static_cast<std::size_t>(count));
      if (count > 0) heard();
    }
  }
  void heard() {
    if (order_.silence_seconds > 0)
      silence_ = Deadline::in(std::chrono::duration_cast<Duration>(
          std::chrono::duration<double>(order_.silence_seconds)));
  }

  // "signal N" lines; anything else is passed over.
  void pass_on() {
    constexpr std::string_view kSignal = "signal ";
    for (std::size_t end; (end = words_.find('\n')) != std::string::npos;
         words_.erase(0, end + 1)) {
      const std::string_view line = std::string_view(words_).substr(0, end);
      if (!line.starts_with(kSignal)) continue;
      int signal = 0;
      std::from_chars(line.data() + kSignal.size(), line.data() + line.size(), signal);
      if (signal == SIGKILL)
        child_->send_group(SIGKILL);
      else if (signal > 0 && signal < 65)
        child_->send(signal);
    }
    if (words_.size() > kLongestOrder) words_.clear();
  }

  void leave() {
    if (leaving_) return;
    leaving_ = true;
    child_->send(order_.leave_signal);
    end_ = Deadline::in(
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(order_.drain_seconds)));
  }

  Signals signals_;
  const int input_, output_;
  AgentOrder order_;
  std::unique_ptr<ChildProcess> child_;
  std::string words_;  // read and not yet used
  Deadline end_, silence_;
  bool input_ended_ = false, leaving_ = false;
};

}  // namespace

int run_agent(int input, int output) {
  // A launcher that is gone is no reason to die, for the agent or (it inherits this) its command.
  std::signal(SIGPIPE, SIG_IGN);
  return Agent(input, output).run();
}

}  // namespace ballot
