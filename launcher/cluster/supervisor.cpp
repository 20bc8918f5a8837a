// One thread and one poll(): signals, everybody's pipes, everybody's end.
#include "launcher/cluster/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>

#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "launcher/child_process.h"
#include "launcher/line_output.h"
#include "launcher/signals.h"

namespace ballot {
namespace {

constexpr Duration kPause = std::chrono::milliseconds(200);  // before a process is started again
// A host that could not be reached is not asked again at once, and less and less often; a machine
// that starts anew takes minutes. Such attempts together use up one restart; but not for ever.
constexpr Duration kHostPause = std::chrono::seconds(2),
                   kLongestHostPause = std::chrono::seconds(60);
constexpr int kHostAttempts = 30;
constexpr Duration kAliveEvery = std::chrono::seconds(5);
constexpr Duration kAgentEndPatience = std::chrono::seconds(5);  // from its last word to its end
constexpr int kMostReads = 16;  // of one stream in one turn: who writes without end is not all
constexpr Duration kKillPatience = std::chrono::seconds(10);  // for an agent to end what it runs

struct End {
  int code = 0;            // as a shell would say it
  bool host_lost = false;  // its agent was not heard of: the connection or the host is gone
};

// A process that may be started again when it dies, and its log.
class Member {
 public:
  Member(const SupervisedProcess& process, const SupervisedJob& job)
      : process_(process),
        log_((std::filesystem::path(job.log_folder) / log_name(process.name)).string()),
        output_(make_pipe()),
        errors_(make_pipe()),
        lines_(process.name, log_, job.forward_output ? STDOUT_FILENO : -1,
               [this](std::string_view& line) { return is_output(line); }),
        error_lines_(process.name, log_, job.forward_output ? STDERR_FILENO : -1) {
    start(false);
  }
  const std::string& name() const { return process_.name; }

  void start(bool host_lost) {
    due_.reset();
    agent_end_.reset();
    const StartCommand command = process_.start(host_lost);
    Descriptor input;
    if (command.by_agent()) {
      int ends[2];
      if (::pipe2(ends, O_CLOEXEC) != 0) throw_file_error("make a pipe", "pipe");
      input = Descriptor(ends[0]);
      to_agent_ = Descriptor(ends[1]);
      ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
      // An empty pipe holds it all, so nobody has to read yet.
      if (::write(ends[1], command.input.data(), command.input.size()) !=
          static_cast<ssize_t>(command.input.size()))
        throw ConfigError("{}: its order of {} bytes is too long to be passed to its host", name(),
                          command.input.size());
    }
    child_ = std::make_unique<ChildProcess>(command.words, output_.target.number(),
                                            errors_.target.number(), input.number());
    heard_of_ = false;
    next_alive_ = system_clock().now() + kAliveEvery;
  }
  void start_later(bool host_lost) {
    host_lost_ = host_lost;
    const Duration pause = std::min(kLongestHostPause, kHostPause * (1 << std::min(attempts_, 6)));
    due_ = system_clock().now() + (host_lost ? pause : kPause);
  }
  // Whether this end is only another attempt that did not reach the host.
  bool is_same_loss(const End& end) {
    const bool same = end.host_lost && !heard_of_ && attempts_ > 0 && attempts_ < kHostAttempts;
    attempts_ = end.host_lost ? (heard_of_ ? 1 : attempts_ + 1) : 0;
    return same;
  }
  void say_alive() {
    if (!to_agent_.is_open() || system_clock().now() < next_alive_) return;
    next_alive_ = system_clock().now() + kAliveEvery;
    // A pipe that is full is that of an agent out of reach, which is found out otherwise.
    [[maybe_unused]] const ssize_t written = ::write(to_agent_.number(), "alive\n", 6);
  }
  bool is_due() const { return due_ && system_clock().now() >= *due_; }
  void start_due() { start(host_lost_); }
  bool runs() { return child_ != nullptr && !child_->has_ended(); }

  // Once after each end.
  std::optional<End> take_end() {
    if (child_ != nullptr && agent_end_ && agent_ended_.passed()) child_->send_group(SIGKILL);
    if (child_ == nullptr || !child_->has_ended()) return std::nullopt;
    const int code = child_->exit_code();
    const bool by_agent = to_agent_.is_open();
    read();  // what the agent said last
    lines_.finish();
    child_.reset();
    to_agent_.close();
    if (!by_agent) return End{code, false};
    if (agent_end_) return End{*agent_end_, false};
    log_warning(
        "{}: the connection to its host was lost ({})", name(),
        code >= 128 ? fmt::format("signal {}", code - 128) : fmt::format("exit code {}", code));
    return End{static_cast<int>(ExitCode::retry), true};
  }
  void send(int signal) {
    due_.reset();
    if (child_ == nullptr) return;
    if (!to_agent_.is_open()) return child_->send(signal);
    const std::string line = fmt::format("signal {}\n", signal);
    [[maybe_unused]] const ssize_t written = ::write(to_agent_.number(), line.data(), line.size());
  }
  // What started it too, which an agent out of reach does not end.
  void kill() {
    due_.reset();
    if (child_ != nullptr) child_->send_group(SIGKILL);
  }
  std::array<int, 2> descriptors() const {
    return {output_.source.number(), errors_.source.number()};
  }
  void read() {
    for (int turn = 0; turn < kMostReads; ++turn)
      if (!read_one(output_, lines_) && !read_one(errors_, error_lines_)) return;
  }
  void finish() {
    read();
    lines_.finish();
    error_lines_.finish();
  }

 private:
  static std::string log_name(std::string name) {
    std::replace(name.begin(), name.end(), ' ', '-');
    return name + ".log";
  }
  // Takes the agent's own last line out.
  bool is_output(std::string_view& line) {
    heard_of_ = true;
    std::string_view rest;
    const std::optional<int> code = parse_end(line, rest);
    if (!code) return true;
    agent_end_ = code;
    agent_ended_ = Deadline::in(kAgentEndPatience);
    line = rest;
    return !rest.empty();
  }
  static bool read_one(const Pipe& pipe, LineOutput& lines) {
    std::array<char, 65536> bytes;
    const ssize_t count = ::read(pipe.source.number(), bytes.data(), bytes.size());
    if (count <= 0) return false;
    lines.add({bytes.data(), static_cast<std::size_t>(count)});
    return true;
  }

  const SupervisedProcess& process_;
  LogFile log_;
  Pipe output_, errors_;
  Descriptor to_agent_;  // open while an agent runs
  std::optional<int> agent_end_;
  Deadline agent_ended_;
  LineOutput lines_, error_lines_;
  std::unique_ptr<ChildProcess> child_;
  std::optional<TimePoint> due_;  // to be started again
  bool host_lost_ = false;
  int attempts_ = 0;       // in a row that lost the host
  bool heard_of_ = false;  // this one was: it wrote something
  TimePoint next_alive_{};
};

class Supervisor {
 public:
  explicit Supervisor(const SupervisedJob& job)
      : job_(job), signals_({SIGUSR1}), restarts_left_(job.restarts) {
    if (job.coordinator) coordinator_ = std::make_unique<Member>(*job.coordinator, job);
    for (const SupervisedProcess& worker : job.workers)
      workers_.push_back(std::make_unique<Member>(worker, job));
    ended_.resize(workers_.size());
  }

  SupervisedResult run() {
    while (!over()) {
      wait();
      while (const int signal = signals_.next())
        if (signal != SIGCHLD) {
          if (!result_.asked_to_stop) result_.stop_signal = signal;
          result_.asked_to_stop = true;
          ask_to_stop(signal);
        }
      if (coordinator_) look_at_coordinator();
      for (std::size_t w = 0; w < workers_.size(); ++w) look_at(w);
      if (end_.passed()) end_late_workers();
    }
    if (coordinator_) {
      coordinator_->send(SIGTERM);
      const Deadline deadline = Deadline::in(std::chrono::seconds(5));
      while (coordinator_->runs() && !deadline.passed()) wait();
      coordinator_->finish();
    }
    for (const auto& worker : workers_) worker->finish();
    // Nobody is left who could end the run.
    if (result_.exit_code == 0 && sent_away_ == workers_.size())
      result_.exit_code = static_cast<int>(ExitCode::sent_away);
    return result_;
  }

 private:
  bool is_fixed() const { return !job_.coordinator; }
  bool over() const { return std::find(ended_.begin(), ended_.end(), false) == ended_.end(); }

  void wait() {
    std::vector<pollfd> waits{{signals_.descriptor(), POLLIN, 0}};
    const auto add = [&](const Member& member) {
      for (const int descriptor : member.descriptors()) waits.push_back({descriptor, POLLIN, 0});
    };
    if (coordinator_) add(*coordinator_);
    for (const auto& worker : workers_) add(*worker);
    if (::poll(waits.data(), waits.size(), 50) < 0 && errno != EINTR)
      throw_file_error("wait for", "the workers");
    if (coordinator_) coordinator_->read(), coordinator_->say_alive();
    for (const auto& worker : workers_) worker->read(), worker->say_alive();
  }

  bool may_start_again(Member& member, const End& end) {
    if (stopping_) return false;
    if (member.is_same_loss(end)) return true;
    if (restarts_left_ == 0) return false;
    --restarts_left_;
    log_warning("{} {}; starting it again, {} restarts are left", member.name(),
                end.host_lost ? std::string("was lost with its host")
                              : fmt::format("ended with {}", end.code),
                restarts_left_);
    return true;
  }
  static bool is_mendable(const End& end) {
    return end.code >= 128 || end.code == static_cast<int>(ExitCode::retry);
  }

  void look_at_coordinator() {
    if (coordinator_->is_due()) coordinator_->start_due();
    const std::optional<End> end = coordinator_->take_end();
    if (!end) return;
    // Who leaves needs it too, also where whoever asked for that has asked it as well (scancel).
    if (stopping_ && (is_mendable(*end) || end->code == 0))
      return coordinator_->start_later(end->host_lost);
    // Somebody else may have asked it to end (its host, going down).
    if ((is_mendable(*end) || end->code == 0) && may_start_again(*coordinator_, *end))
      return coordinator_->start_later(end->host_lost);
    if (stopping_) return;
    log_error("the coordinator ended with {}: the job ends", end->code);
    result_.exit_code = end->code != 0 ? end->code : static_cast<int>(ExitCode::retry);
    result_.failed = coordinator_->name();
    ask_to_stop(SIGTERM);
  }

  void look_at(std::size_t w) {
    Member& worker = *workers_[w];
    if (worker.is_due()) worker.start_due();
    std::optional<End> end = worker.take_end();
    // Asked before it could listen: it had nothing to leave yet.
    if (end && stopping_ && end->code == 128 + job_.leave_signal)
      end->code = static_cast<int>(ExitCode::retry);
    if (!end) {
      // It was to be started again.
      if (!worker.runs() && (stopping_ || others_have_ended(w))) ended_[w] = true;
      return;
    }
    if (end->code != 0 && is_mendable(*end) && may_start_again(worker, *end))
      return worker.start_later(end->host_lost);
    ended_[w] = true;
    if (end->code == 0) return;
    if (end->code == static_cast<int>(ExitCode::sent_away)) {
      ++sent_away_;
      log_warning("{} was sent away and is not started again; the others go on", worker.name());
      return;
    }
    if (result_.exit_code == 0) {
      result_.exit_code = end->code;
      result_.failed = worker.name();
      result_.failed_worker = w;
      result_.host_lost = end->host_lost;
      result_.lost = end->host_lost || end->code >= 128;
    } else if (is_fixed() && !result_.lost && (end->host_lost || end->code >= 128) &&
               !result_.asked_to_stop && !killing_) {
      // Those who miss a lost worker may end before the loss itself is seen: it is the cause.
      result_.exit_code = end->code;
      result_.failed = worker.name();
      result_.failed_worker = w;
      result_.host_lost = end->host_lost;
      result_.lost = true;
    }
    if (stopping_) return;
    log_error("{} {}: the job ends", worker.name(),
              end->host_lost ? std::string("was lost with its host")
                             : fmt::format("ended with {}", end->code));
    ask_to_stop(SIGTERM);
  }

  // The run is over, whatever becomes of a host that does not answer.
  bool others_have_ended(std::size_t w) const {
    for (std::size_t other = 0; other < ended_.size(); ++other)
      if (other != w && !ended_[other]) return false;
    return ended_.size() > 1 && result_.exit_code == 0 && sent_away_ + 1 < ended_.size();
  }

  void ask_to_stop(int signal) {
    if (stopping_) {
      if (signal != SIGINT) return send_all(signal);
      killing_ = true;
      end_ = Deadline::in(kKillPatience);
      return send_all(SIGKILL);
    }
    stopping_ = true;
    if (!result_.asked_to_stop && is_fixed()) {
      // They find out by themselves that one is missing, and end with the right code.
      end_ = Deadline::in(job_.end_deadline);
      return;
    }
    log_warning("{}: asking the workers to leave", ::strsignal(signal));
    end_ = Deadline::in(job_.drain_deadline);
    send_all(job_.leave_signal);
  }
  void send_all(int signal) {
    for (const auto& worker : workers_) worker->send(signal);
  }
  // First those on the hosts, then what reaches them.
  void end_late_workers() {
    if (killing_) {
      for (const auto& worker : workers_) worker->kill();
      end_ = {};
      return;
    }
    killing_ = true;
    log_warning("the workers did not leave in time: ending them");
    send_all(SIGKILL);
    end_ = Deadline::in(kKillPatience);
  }

  const SupervisedJob& job_;
  Signals signals_;
  std::unique_ptr<Member> coordinator_;
  std::vector<std::unique_ptr<Member>> workers_;
  std::vector<bool> ended_;
  SupervisedResult result_;
  std::size_t sent_away_ = 0;
  int restarts_left_;
  bool stopping_ = false, killing_ = false;
  Deadline end_;
};

}  // namespace

SupervisedResult supervise(const SupervisedJob& job) {
  require(!job.workers.empty() && !job.log_folder.empty(), "a job of {} workers",
          job.workers.size());
  std::filesystem::create_directories(job.log_folder);
  std::signal(SIGPIPE, SIG_IGN);  // an agent that is gone is seen by its end
  return Supervisor(job).run();
}

}  // namespace ballot
