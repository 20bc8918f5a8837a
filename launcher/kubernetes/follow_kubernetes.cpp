// One thread looks at the state; one for each pod that has a log reads it.
#include "launcher/kubernetes/follow_kubernetes.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "core/clock.h"
#include "core/error.h"
#include "core/log.h"
#include "launcher/line_output.h"
#include "launcher/signals.h"

namespace ballot {
namespace {

constexpr std::size_t kMostLogs = 64;  // each is a kubectl of its own
constexpr auto kLastLines = std::chrono::seconds(15);

// One pod's log, read by a thread of its own.
class FollowedLog {
 public:
  FollowedLog(const Kubectl& kubectl, const std::string& name, const std::string& pod,
              const FollowOptions& options)
      : log_((std::filesystem::path(options.log_folder) / (name + ".log")).string()),
        lines_(name, log_, options.forward_output ? STDOUT_FILENO : -1),
        thread_([this, &kubectl, pod, name] {
          try {
            kubectl.follow_pod(
                pod, [this](std::string_view bytes) { lines_.add(bytes); },
                [this] { return stop_.load(); });
          } catch (const std::exception& error) {
            log_warning("{}: {}", name, describe_failure(error).message);
          }
          lines_.finish();
          ended_ = true;
        }) {}
  FollowedLog(const FollowedLog&) = delete;
  FollowedLog& operator=(const FollowedLog&) = delete;
  ~FollowedLog() {
    stop_ = true;
    thread_.join();
  }
  bool ended() const { return ended_; }

 private:
  std::atomic<bool> stop_{false}, ended_{false};
  LogFile log_;
  LineOutput lines_;
  std::thread thread_;
};

class FollowedJob {
 public:
  FollowedJob(const Kubectl& kubectl, std::string job, const FollowOptions& options)
      : kubectl_(kubectl), job_(std::move(job)), options_(options) {}

  int run() {
    for (;;) {
      if (const std::optional<int> code = look()) return *code;
      const Deadline next = Deadline::in(options_.look_every);
      while (!next.passed()) {
        while (const int signal = signals_.next())
          if (signal != SIGCHLD) {
            if (stopping_) return 128 + signal;
            ask_to_stop(signal);
          }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    }
  }

 private:
  std::optional<int> look() {
    KubernetesState state;
    try {
      state = kubectl_.state(job_, options_.controller);
      gone_since_ = {};
    } catch (const WorldError& error) {
      if (error.exit_code() != ExitCode::retry) throw;
      if (gone_since_.passed()) throw;
      if (gone_since_.at == TimePoint::max()) {
        gone_since_ = Deadline::in(options_.unreachable);
        log_warning("{}; looking again for {:g} s", error.what(), seconds(options_.unreachable));
      }
      return std::nullopt;
    }
    const std::string line = describe(state);
    if (line != said_) log_info("job {} is {}", job_, line);
    said_ = line;
    if (state.phase == KubernetesState::Phase::absent) {
      if (!stopping_) log_error("job {} is gone: somebody deleted it", job_);
      return static_cast<int>(ExitCode::retry);
    }
    follow(state);
    if (state.over()) {
      read_last_lines();
      return exit_code_of(state);
    }
    return stopping_ ? look_who_left(state) : std::nullopt;
  }
  void follow(const KubernetesState& state) {
    if (state.coordinator) follow("coordinator", *state.coordinator);
    if (state.launcher) follow("launcher", *state.launcher);
    if (options_.controller == KubernetesOperator::mpi) return;  // workers run sshd there
    for (const auto& [worker, pod] : state.workers) follow(fmt::format("worker-{}", worker), pod);
  }
  void follow(const std::string& name, const KubernetesPod& pod) {
    if (pod.phase.empty() || pod.phase == "Pending" || followed_.contains(pod.name)) return;
    if (followed_.size() >= kMostLogs) {
      if (!too_many_) log_warning("only the first {} logs are followed here", kMostLogs);
      too_many_ = true;
      return;
    }
    followed_.insert(pod.name);
    logs_.push_back(std::make_unique<FollowedLog>(kubectl_, name, pod.name, options_));
  }
  // The coordinator's goes on; the others' end with their pods.
  void read_last_lines() {
    for (const Deadline deadline = Deadline::in(kLastLines); !deadline.passed();) {
      std::size_t open = 0;
      for (const auto& log : logs_) open += log->ended() ? 0 : 1;
      if (open <= 1) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  void ask_to_stop(int signal) {
    log_warning(
        "signal {}: the workers of job {} are asked to leave; once more to leave them to it",
        signal, job_);
    stopping_ = true;
    leave_ = Deadline::in(options_.grace);
    kubectl_.suspend(job_, options_.controller);
  }
  std::optional<int> look_who_left(const KubernetesState& state) {
    const std::vector<std::string> left = pods_left(state);
    if (!left.empty() && leave_.passed())
      throw Timeout("job {} is suspended, but after {:g} s there still run {}", job_,
                    seconds(options_.grace), fmt::join(left, ", "));
    if (!left.empty()) return std::nullopt;
    read_last_lines();
    kubectl_.stop(job_, options_.controller, options_.grace);
    return static_cast<int>(ExitCode::retry);
  }

  const Kubectl& kubectl_;
  const std::string job_;
  const FollowOptions& options_;
  Signals signals_;  // before any thread
  std::vector<std::unique_ptr<FollowedLog>> logs_;
  std::set<std::string> followed_;  // pods
  std::string said_;
  Deadline gone_since_, leave_;
  bool stopping_ = false, too_many_ = false;
};

}  // namespace

int follow_kubernetes(const Kubectl& kubectl, const std::string& job,
                      const FollowOptions& options) {
  std::filesystem::create_directories(options.log_folder);
  return FollowedJob(kubectl, job, options).run();
}

}  // namespace ballot
