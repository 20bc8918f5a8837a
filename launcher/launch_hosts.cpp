// `ballot launch --on ssh` and, inside an allocation, `--on slurm`: preflight, then one supervisor
// for all hosts.
#include <csignal>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/log.h"
#include "launcher/cluster/host_job.h"
#include "launcher/cluster/slurm.h"
#include "launcher/cluster/slurm_allocation.h"
#include "launcher/detach.h"
#include "launcher/environment.h"
#include "launcher/launch_checks.h"
#include "launcher/launch_flags.h"
#include "launcher/launch_job.h"
#include "launcher/launch_preflight.h"
#include "launcher/shell_words.h"
#include "runtime/run_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

void check_hosts_flags(const RunConfig& config, const LaunchFlags& flags) {
  if (flags.transport.name != "auto" && flags.transport.name != "grpc")
    throw ConfigError(
        "--transport {}: on hosts that {} reaches workers speak gRPC to each other; "
        "for MPI launch --on mpirun",
        flags.transport.name, flags.on);
  if (flags.workers % config.members != 0)
    throw ConfigError("vote.members = {}: {} workers cannot be cut into voters of {}",
                      config.members, flags.workers, config.members);
  if (flags.elastic && !flags.resume.empty())
    throw ConfigError(
        "--resume: an elastic run always goes on where its journals end; leave the flag out");
}

bool may_succeed_again(const SupervisedResult& result) {
  return !result.asked_to_stop &&
         (result.lost || result.exit_code == static_cast<int>(ExitCode::retry));
}

class HostLaunch {
 public:
  HostLaunch(const RunConfig& config, const LaunchFlags& flags)
      : config_(config), flags_(flags), starter_(starter_of(flags)) {
    check_hosts_flags(config, flags);
    hosts_ = flags.on == "slurm" ? read_allocation() : read_hosts(flags.hosts);
  }

  int run() {
    if (const auto before = end_of_earlier_task()) {
      log_info("an earlier task of this array has ended the job with {}", *before);
      return *before;
    }
    const bool goes_on = prepare_folder();
    place(flags_.workers);
    if (flags_.dry_run) return show();
    Preflight seen = look();
    require_ready(seen);
    require_private_links(seen);
    LaunchedJob job(config_, flags_);
    if (flags_.detach && job.detach()) return 0;
    job.begin();
    resume_ = flags_.elastic ? "" : goes_on && flags_.resume.empty() ? "journal" : flags_.resume;
    SupervisedResult result = supervise(make_job(seen));
    for (int restart = 1; !flags_.elastic && restart <= flags_.restarts &&
                          may_succeed_again(result) && has_state(config_, "journal");
         ++restart) {
      log_warning("{} {}; starting the job again from its newest state ({} of {} restarts)",
                  result.failed,
                  result.lost ? "was lost" : fmt::format("ended with {}", result.exit_code),
                  restart, flags_.restarts);
      resume_ = "journal";
      take_lost_host_out(result);
      seen = look();
      if (!seen.refusals.empty()) {
        fmt::print("{}", seen.table());
        break;
      }
      result = supervise(make_job(seen));
    }
    if (result.exit_code != 0)
      log_error("the job ended with exit code {}{}", result.exit_code,
                result.failed.empty() ? "" : ": " + result.failed);
    const char* why = result.stop_signal == SIGUSR1 ? "its time is over"
                      : may_succeed_again(result)   ? "a retry can help"
                                                    : nullptr;
    // What goes on has not ended; and being put back ends this process.
    if (why == nullptr || !may_requeue())
      job.end(result.exit_code);
    else
      requeue(why);
    return result.exit_code;
  }

 private:
  // Of an array of retries the later tasks are for what an earlier one could not finish.
  std::optional<int> end_of_earlier_task() const {
    if (!flags_.inside || array_task() == 0) return std::nullopt;
    const auto job = read_job(fs::absolute(config_.output_folder).string());
    if (!job || !job->exit_code || *job->exit_code == static_cast<int>(ExitCode::retry) ||
        *job->exit_code >= 128)
      return std::nullopt;
    return job->exit_code;
  }
  static int array_task() {
    const auto task = process_environment("SLURM_ARRAY_TASK_ID");
    return task ? std::atoi(task->c_str()) : 0;
  }
  // True where a job that Slurm has put back into its queue goes on.
  bool prepare_folder() {
    if (flags_.elastic) {
      if (fs::exists(config_.output_folder + "/run.toml")) require_same_run(config_);
      check_inputs(config_, false);
      return false;
    }
    const bool goes_on = flags_.inside && flags_.resume.empty() && has_state(config_, "journal") &&
                         (process_environment("SLURM_RESTART_COUNT") || array_task() > 0);
    check_folder(config_, goes_on ? "journal" : flags_.resume);
    check_inputs(config_, goes_on || !flags_.resume.empty());
    return goes_on;
  }
  void place(int workers) {
    const int members = flags_.elastic ? static_cast<int>(config_.members) : 1;
    placement_ = std::make_shared<Placement>(hosts_, workers / members, members);
  }
  // The links of a fixed job carry gradients, and a token is shown on them once only.
  void require_private_links(const Preflight& seen) const {
    if (flags_.elastic || flags_.transport.tls.given() || flags_.transport.insecure ||
        seen.network.of_host[0].loopback)
      return;
    throw ConfigError(
        "the workers of a fixed job would speak gRPC without TLS on {}; expected --tls-ca, "
        "--tls-certificate and --tls-key, or the explicit choice --insecure",
        network_text(seen.network.of_host[0]));
  }
  Preflight look() const { return look_before_launch(config_, flags_, *placement_, starter_); }
  // A fixed job goes on without the host that was lost, where the others have room.
  void take_lost_host_out(const SupervisedResult& result) {
    if (!result.host_lost) return;
    const auto worker = static_cast<int>(result.failed_worker);
    const std::size_t lost = placement_->host_of(worker);
    std::vector<Host> others = hosts_;
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(lost));
    if (others.empty() || total_slots(others) < flags_.workers) return;
    log_warning("going on without {}", hosts_[lost].name);
    hosts_ = std::move(others);
    place(flags_.workers);
  }
  SupervisedJob make_job(const Preflight& seen) const {
    HostJob job;
    job.starter = starter_;
    job.folder = fs::current_path().string();
    job.run_file = flags_.run_file;
    job.settings = flags_.settings;
    job.run_folder = config_.output_folder;
    job.elastic = flags_.elastic;
    job.min_voters = flags_.min_workers.value_or(1);
    job.prometheus = config_.prometheus;
    job.resume = resume_;
    job.threads = config_.threads > 0 ? static_cast<int>(config_.threads) : starter_.cpus;
    job.restarts = flags_.restarts;
    job.token = ensure_token();
    job.tls = flags_.transport.tls;
    job.insecure = flags_.transport.insecure;
    return make_host_job(job, placement_, seen);
  }
  // What would be run, with what only a preflight can say left open.
  int show() const {
    for (std::size_t host = 0; host < placement_->hosts().size(); ++host)
      fmt::print("# {}: {} of {} slots\n", placement_->hosts()[host].name,
                 placement_->workers_of(host), placement_->hosts()[host].slots);
    AgentOrder order;
    order.command = {"..."};
    for (const Host& host : placement_->hosts()) {
      for (const std::string& word : make_start(starter_, host.name, order).words)
        fmt::print("{} ",
                   word.find_first_of(" '\"") == std::string::npos ? word : shell_quoted(word));
      fmt::print("\n");
    }
    return 0;
  }
  int requeues() const {
    const auto count = process_environment("SLURM_RESTART_COUNT");
    return count ? std::atoi(count->c_str()) : 0;
  }
  bool may_requeue() const {
    return flags_.inside && process_environment("SLURM_JOB_ID") &&
           !process_environment("SLURM_ARRAY_TASK_ID") && requeues() < flags_.retries;
  }
  void requeue(const char* why) const {
    const std::string id = *process_environment("SLURM_JOB_ID");
    log_warning("{}: putting Slurm job {} back into the queue ({} of {} retries)", why, id,
                requeues() + 1, flags_.retries);
    requeue_slurm_job(id);
  }

  const RunConfig& config_;
  const LaunchFlags& flags_;
  const Starter starter_;
  std::vector<Host> hosts_;
  std::shared_ptr<Placement> placement_;
  std::string resume_;
};

}  // namespace

int launch_on_hosts(const RunConfig& config, const LaunchFlags& flags) {
  return HostLaunch(config, flags).run();
}

}  // namespace ballot
