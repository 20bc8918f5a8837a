// One thread and one poll(): signals, everybody's pipes, everybody's end.
#include "launcher/elastic_job.h"

#include <poll.h>
#include <unistd.h>

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

// A process that is started again when it dies, and its log.
class Member {
 public:
  Member(std::string name, std::vector<std::string> command, const ElasticJob& job)
      : name_(std::move(name)),
        command_(std::move(command)),
        log_((std::filesystem::path(job.log_folder) / (name_ + ".log")).string()),
        output_(make_pipe()),
        errors_(make_pipe()),
        lines_(name_, log_, job.forward_output ? STDOUT_FILENO : -1),
        error_lines_(name_, log_, job.forward_output ? STDERR_FILENO : -1) {
    start();
  }
  const std::string& name() const { return name_; }
  void start() {
    process_ =
        std::make_unique<ChildProcess>(command_, output_.target.number(), errors_.target.number());
    due_.reset();
  }
  void start_later() { due_ = system_clock().now() + kPause; }
  bool is_due() const { return due_ && system_clock().now() >= *due_; }
  bool waits() const { return due_.has_value(); }
  bool runs() { return process_ != nullptr && !process_->has_ended(); }
  // As a shell would say it, once after each end.
  std::optional<int> take_end() {
    if (process_ == nullptr || !process_->has_ended()) return std::nullopt;
    const int code = process_->exit_code();
    process_.reset();
    return code;
  }
  void send(int signal) {
    due_.reset();
    if (process_ != nullptr) process_->send(signal);
  }
  std::array<int, 2> descriptors() const {
    return {output_.source.number(), errors_.source.number()};
  }
  void read() {
    while (read_one(output_, lines_) || read_one(errors_, error_lines_)) {
    }
  }
  void finish() {
    read();
    lines_.finish();
    error_lines_.finish();
  }

 private:
  static bool read_one(const Pipe& pipe, LineOutput& lines) {
    std::array<char, 65536> bytes;
    const ssize_t count = ::read(pipe.source.number(), bytes.data(), bytes.size());
    if (count <= 0) return false;
    lines.add({bytes.data(), static_cast<std::size_t>(count)});
    return true;
  }

  const std::string name_;
  const std::vector<std::string> command_;
  LogFile log_;
  Pipe output_, errors_;
  LineOutput lines_, error_lines_;
  std::unique_ptr<ChildProcess> process_;
  std::optional<TimePoint> due_;  // to be started again
};

class RunningElasticJob {
 public:
  explicit RunningElasticJob(const ElasticJob& job) : job_(job), restarts_left_(job.restarts) {
    coordinator_ = std::make_unique<Member>("coordinator", job.coordinator, job);
    for (std::size_t w = 0; w < job.workers.size(); ++w)
      workers_.push_back(
          std::make_unique<Member>(fmt::format("worker {}", w), job.workers[w], job));
    ended_.resize(workers_.size());
  }

  int run() {
    while (!over()) {
      wait();
      while (const int signal = signals_.next())
        if (signal != SIGCHLD) ask_to_stop(signal);
      look_at_coordinator();
      for (std::size_t w = 0; w < workers_.size(); ++w) look_at(w);
      if (end_.passed()) {
        log_warning("the workers did not leave within {:g} s: ending them",
                    seconds(job_.drain_deadline));
        send_all(SIGKILL);
        end_ = {};
      }
    }
    coordinator_->send(SIGTERM);
    const Deadline deadline = Deadline::in(std::chrono::seconds(5));
    while (coordinator_->runs() && !deadline.passed()) wait();
    coordinator_->finish();
    for (const auto& worker : workers_) worker->finish();
    // Nobody is left who could end the run.
    if (exit_code_ == 0 && sent_away_ == workers_.size())
      return static_cast<int>(ExitCode::sent_away);
    return exit_code_;
  }

 private:
  bool over() const {
    for (const bool ended : ended_)
      if (!ended) return false;
    return true;
  }
  void wait() {
    std::vector<pollfd> waits{{signals_.descriptor(), POLLIN, 0}};
    const auto add = [&](const Member& member) {
      for (const int descriptor : member.descriptors()) waits.push_back({descriptor, POLLIN, 0});
    };
    add(*coordinator_);
    for (const auto& worker : workers_) add(*worker);
    if (::poll(waits.data(), waits.size(), 50) < 0 && errno != EINTR)
      throw_file_error("wait for", "the workers");
    coordinator_->read();
    for (const auto& worker : workers_) worker->read();
  }
  bool may_start_again(const Member& member, int code) {
    if (stopping_ || restarts_left_ == 0) return false;
    --restarts_left_;
    log_warning("{} ended with {}; starting it again, {} restarts are left", member.name(), code,
                restarts_left_);
    return true;
  }
  void look_at_coordinator() {
    if (coordinator_->is_due()) coordinator_->start();
    const std::optional<int> code = coordinator_->take_end();
    if (!code) return;
    const bool mendable = *code >= 128 || *code == static_cast<int>(ExitCode::retry);
    // Who leaves needs it too.
    if (mendable && (stopping_ || may_start_again(*coordinator_, *code)))
      return coordinator_->start_later();
    if (stopping_) return;
    log_error("the coordinator ended with {}: the job ends", *code);
    exit_code_ = *code != 0 ? *code : static_cast<int>(ExitCode::internal);
    ask_to_stop(SIGTERM);
  }
  void look_at(std::size_t w) {
    Member& worker = *workers_[w];
    if (worker.is_due()) worker.start();
    std::optional<int> code = worker.take_end();
    // Asked before it could listen: it had nothing to leave yet.
    if (stopping_ && code == 128 + job_.leave_signal) code = static_cast<int>(ExitCode::retry);
    if (!code) {
      if (stopping_ && !worker.runs()) ended_[w] = true;  // it was to be started again
      return;
    }
    const bool mendable = *code >= 128 || *code == static_cast<int>(ExitCode::retry);
    if (*code != 0 && mendable && may_start_again(worker, *code)) return worker.start_later();
    ended_[w] = true;
    if (*code == 0) return;
    if (*code == static_cast<int>(ExitCode::sent_away)) {
      ++sent_away_;
      log_warning("{} was sent away and is not started again; the others go on", worker.name());
      return;
    }
    if (exit_code_ == 0) exit_code_ = *code;
    if (stopping_) return;
    log_error("{} ended with {}: the job ends", worker.name(), *code);
    ask_to_stop(SIGTERM);
  }
  void ask_to_stop(int signal) {
    if (stopping_) return send_all(signal == SIGINT ? SIGKILL : signal);
    log_warning("{}: asking the workers to leave", ::strsignal(signal));
    stopping_ = true;
    end_ = Deadline::in(job_.drain_deadline);
    send_all(job_.leave_signal);
  }
  void send_all(int signal) {
    for (const auto& worker : workers_) worker->send(signal);
  }

  const ElasticJob& job_;
  Signals signals_;
  std::unique_ptr<Member> coordinator_;
  std::vector<std::unique_ptr<Member>> workers_;
  std::vector<bool> ended_;
  std::size_t sent_away_ = 0;
  int restarts_left_;
  int exit_code_ = 0;
  bool stopping_ = false;
  Deadline end_;
};

}  // namespace

int run_elastic_job(const ElasticJob& job) {
  require(!job.workers.empty() && !job.log_folder.empty(), "an elastic job of {} workers",
          job.workers.size());
  std::filesystem::create_directories(job.log_folder);
  return RunningElasticJob(job).run();
}

}  // namespace ballot
