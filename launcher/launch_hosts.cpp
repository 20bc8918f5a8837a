// `ballot launch --on ssh` and, inside an allocation, `--on slurm`: preflight, then one supervisor
// for all hosts.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "launcher/cluster/host_job.h"
#include "launcher/cluster/slurm_allocation.h"
#include "launcher/detach.h"
#include "launcher/environment.h"
#include "launcher/launch_checks.h"
#include "launcher/launch_flags.h"
#include "launcher/launch_job.h"
#include "launcher/launch_preflight.h"
#include "launcher/show_command.h"
#include "launcher/slurm_retries.h"
#include "runtime/run_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

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
    if (const auto before = flags_.inside ? end_of_earlier_task(config_) : std::nullopt) {
      log_info("an earlier task of this array has ended the job with {}", *before);
      return *before;
    }
    LaunchedJob job(config_, flags_);
    // Inside an allocation there is a record already, and whoever follows it.
    if (flags_.inside) job.begin();
    try {
      return run(job);
    } catch (const std::exception& failure) {
      const Failure described = describe_failure(failure);
      log_error("{}", described.message);
      const int code = static_cast<int>(described.exit_code);
      return job.has_begun() ? end(job, code, code == static_cast<int>(ExitCode::retry)) : code;
    }
  }

 private:
  int run(LaunchedJob& job) {
    const bool goes_on = prepare_folder();
    place(flags_.workers);
    if (flags_.dry_run) return show();
    Preflight seen = look(!goes_on && flags_.resume.empty(), false);
    require_ready(seen);
    require_private_links(seen);
    if (flags_.transport.name == "nccl" && !seen.network.of_host[0].loopback)
      log_warning("what NCCL sends from host to host is not encrypted, whatever --tls-... says");
    if (flags_.detach && job.detach()) return 0;
    if (!flags_.inside) job.begin();
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
      seen = look(false, true);
      take_silent_hosts_out(seen);
      if (seen.refusals.empty()) {
        result = supervise(make_job(seen));
      } else {
        fmt::print("{}", seen.table());
        if (!seen.may_pass) break;
        pause(restart);  // a machine that starts anew takes a minute or two
      }
    }
    if (result.exit_code != 0)
      log_error("the job ended with exit code {}{}", result.exit_code,
                result.failed.empty() ? "" : ": " + result.failed);
    const bool time_is_over =
        result.stop_signal == SIGUSR1 &&
        (result.exit_code == static_cast<int>(ExitCode::retry) || result.exit_code >= 128);
    return end(job, result.exit_code, time_is_over || may_succeed_again(result));
  }

  // What Slurm will try again has not ended; and being put back ends this process.
  int end(LaunchedJob& job, int exit_code, bool retry_helps) const {
    if (flags_.inside && retry_helps && try_again_by_queue(flags_.retries)) return exit_code;
    job.end(exit_code);
    return exit_code;
  }
  // True where a job that Slurm has put back into its queue goes on.
  bool prepare_folder() {
    if (flags_.elastic) {
      if (fs::exists(config_.output_folder + "/run.toml")) require_same_run(config_);
      check_inputs(config_, false, machines_of(flags_));
      return false;
    }
    const bool goes_on = flags_.inside && flags_.resume.empty() && is_retry_of_queue() &&
                         has_state(config_, "journal");
    check_folder(config_, goes_on ? "journal" : flags_.resume);
    check_inputs(config_, goes_on || !flags_.resume.empty(), machines_of(flags_));
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
  Preflight look(bool compare_models, bool again) const {
    return look_before_launch(config_, flags_, *placement_, starter_, compare_models, again);
  }
  // A fixed job goes on without the hosts that do not answer, where the others have room.
  void take_silent_hosts_out(Preflight& seen) {
    std::vector<Host> others;
    for (const PreflightRow& row : seen.rows)
      if (row.facts) others.push_back(row.host);
    if (others.empty() || others.size() == hosts_.size() || total_slots(others) < flags_.workers)
      return;
    log_warning("going on without {} of {} hosts, which do not answer",
                hosts_.size() - others.size(), hosts_.size());
    hosts_ = std::move(others);
    place(flags_.workers);
    seen = look(false, true);
  }
  static void pause(int attempt) {
    const auto seconds = std::chrono::seconds(std::min(60, 5 << std::min(attempt, 4)));
    log_warning("looking again in {} s", seconds.count());
    std::this_thread::sleep_for(seconds);
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
    job.nccl = flags_.transport.name == "nccl";
    if (job.nccl) job.nccl_interfaces = check_nccl_flags(config_, flags_);
    return make_host_job(job, placement_, seen);
  }
  // What would be run, with what only a preflight can say left open.
  int show() const {
    for (std::size_t host = 0; host < placement_->hosts().size(); ++host)
      fmt::print("# {}: {} of {} slots\n", placement_->hosts()[host].name,
                 placement_->workers_of(host), placement_->hosts()[host].slots);
    fmt::print(
        "# Each agent is told on its standard input to run what stands below it, in {},\n"
        "# with the job's token. HOST-ADDRESS, HOST-INTERFACE, the port of {} (here 0) and\n"
        "# threads are the preflight's to choose.\n",
        fs::current_path().string(), placement_->hosts()[placement_->host_of(0)].name);
    const SupervisedJob job = make_job(unseen());
    const auto print = [](const SupervisedProcess& process) {
      fmt::print("# {}\n{}", process.name, shown_start(process.start(false)));
    };
    if (job.coordinator) print(*job.coordinator);
    for (const SupervisedProcess& worker : job.workers) print(worker);
    return 0;
  }
  Preflight unseen() const {
    Preflight nothing;
    for (const Host& host : placement_->hosts()) {
      HostFacts facts;
      facts.machine = host.name;
      facts.cores = 1;
      nothing.rows.push_back({host, facts, 0, "", true});
      nothing.network.of_host.push_back({host.name + "-INTERFACE", host.name + "-ADDRESS"});
    }
    return nothing;
  }
  const RunConfig& config_;
  const LaunchFlags& flags_;
  const Starter starter_;
  std::vector<Host> hosts_;
  std::shared_ptr<Placement> placement_;
  std::string resume_;
};

}  // namespace

void check_hosts_flags(const RunConfig& config, const LaunchFlags& flags) {
  if (flags.transport.name == "nccl") {
    if (flags.elastic)
      throw ConfigError(
          "--transport nccl: an elastic run votes over gRPC; leave one of the two out");
    check_nccl_flags(config, flags);
  } else if (flags.transport.name != "auto" && flags.transport.name != "grpc") {
    throw ConfigError(
        "--transport {}: on hosts that {} reaches workers speak gRPC to each other; "
        "for MPI launch --on mpirun",
        flags.transport.name, flags.on);
  }
  if (flags.workers % config.members != 0)
    throw ConfigError("vote.members = {}: {} workers cannot be cut into voters of {}",
                      config.members, flags.workers, config.members);
  if (flags.elastic && !flags.resume.empty())
    throw ConfigError(
        "--resume: an elastic run always goes on where its journals end; leave the flag out");
  if (!flags.min_workers) return;
  if (!flags.elastic)
    throw ConfigError(
        "--min-workers {}: a fixed job on hosts is started again with all its workers; expected "
        "--elastic{}, or no such flag",
        *flags.min_workers, flags.transport.name == "nccl" ? " without --transport nccl" : "");
  if (const std::int64_t voters = flags.workers / config.members; *flags.min_workers > voters)
    throw ConfigError("--min-workers {}: expected at most {}, the voters of {} workers",
                      *flags.min_workers, voters, flags.workers);
}

int launch_on_hosts(const RunConfig& config, const LaunchFlags& flags) {
  return HostLaunch(config, flags).run();
}

}  // namespace ballot
