// `ballot launch --on ssh` and, inside an allocation, `--on slurm`: preflight, then one supervisor
// for all hosts.
#include <csignal>
#include <filesystem>
#include <memory>
#include <numeric>
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
#include "models/architecture.h"
#include "runtime/memory_plan.h"
#include "runtime/run_folder.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

// Room for two checkpoints and one being written, parameters and every voter's momentum in f32, and
// for the verdicts since the first of them, which each worker of an elastic run keeps.
std::int64_t disk_needed(const RunConfig& config, std::int64_t parameters, int voters,
                         bool elastic) {
  const std::int64_t checkpoints = 3 * 4 * parameters * (1 + voters);
  const std::int64_t interval =
      config.checkpoint_every > 0 ? config.checkpoint_every : config.steps;
  const std::int64_t copies =
      elastic || config.journal.copies == 0 ? voters : config.journal.copies;
  return checkpoints + parameters / 8 * 2 * interval * copies;
}

PreflightNeeds needs_of(const RunConfig& config, const LaunchFlags& flags,
                        const Placement& placement) {
  const std::unique_ptr<Architecture> architecture = read_architecture(config.model_folder);
  const std::vector<ParameterShape> shapes = architecture->parameter_shapes();
  const int voters = flags.workers / static_cast<int>(config.members);
  MemoryFacts memory;  // without activations: a lower bound
  memory.shapes = shapes;
  memory.groups = config.groups;
  memory.voters = voters;
  memory.members = config.members;
  std::int64_t parameters = 0;
  for (const ParameterShape& shape : shapes) parameters += shape.rows * shape.cols;
  PreflightNeeds needs;
  needs.run_folder = config.output_folder;
  needs.model_folder = config.model_folder;
  needs.interface = flags.interface;
  needs.memory_bytes_per_worker = plan_memory(memory).total();
  needs.disk_bytes = disk_needed(config, parameters, voters, flags.elastic);
  needs.gpu = config.device.starts_with("cuda");
  for (std::size_t host = 0; host < placement.hosts().size(); ++host)
    needs.workers_of_host.push_back(placement.workers_of(host));
  return needs;
}

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

Starter starter_of(const LaunchFlags& flags) {
  Starter starter;
  starter.program =
      flags.program.empty() ? fs::read_symlink("/proc/self/exe").string() : flags.program;
  starter.method = flags.on == "slurm" ? StartMethod::srun : StartMethod::ssh;
  if (const auto cpus = process_environment("SLURM_CPUS_PER_TASK"); flags.inside && cpus)
    starter.cpus = std::atoi(cpus->c_str());
  starter.ssh = split_words("--ssh", flags.ssh);
  if (starter.ssh.empty()) throw ConfigError("--ssh: expected a command such as \"ssh -p 2222\"");
  return starter;
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
    const bool goes_on = prepare_folder();
    place(flags_.workers);
    if (flags_.dry_run) return show();
    Preflight seen = look();
    fmt::print("{}", seen.table());
    std::fflush(stdout);
    if (!seen.refusals.empty())
      throw Error(seen.may_pass ? ExitCode::retry : ExitCode::configuration,
                  fmt::format("the job was not started: {} thing{} to mend, in the table above",
                              seen.refusals.size(), seen.refusals.size() == 1 ? "" : "s"));
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
  // True where a job that Slurm has put back into its queue goes on.
  bool prepare_folder() {
    if (flags_.elastic) {
      if (fs::exists(config_.output_folder + "/run.toml")) require_same_run(config_);
      check_inputs(config_, false);
      return false;
    }
    const bool goes_on = flags_.inside && flags_.resume.empty() && has_state(config_, "journal") &&
                         process_environment("SLURM_RESTART_COUNT").has_value();
    check_folder(config_, goes_on ? "journal" : flags_.resume);
    check_inputs(config_, goes_on || !flags_.resume.empty());
    return goes_on;
  }
  void place(int workers) {
    const int members = flags_.elastic ? static_cast<int>(config_.members) : 1;
    placement_ = std::make_shared<Placement>(hosts_, workers / members, members);
  }
  Preflight look() const {
    return look_before_start(starter_, placement_->hosts(), needs_of(config_, flags_, *placement_),
                             fs::current_path().string());
  }
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
