// `ballot launch RUN.toml --workers N [--elastic]`: a job of N workers on this machine, checked
// before any of them starts.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "core/log.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/elastic_job.h"
#include "launcher/environment.h"
#include "launcher/free_port.h"
#include "launcher/local_job.h"
#include "launcher/mpirun.h"
#include "launcher/worker_transport.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "models/tokenizer.h"
#include "runtime/checkpoint.h"
#include "runtime/journal/shards.h"
#include "runtime/run_config.h"
#include "runtime/run_data.h"
#include "runtime/run_folder.h"

namespace ballot {
namespace {

struct LaunchFlags {
  std::string run_file;
  std::vector<std::string> settings;
  int workers = 1;
  std::string resume;  // "journal", "checkpoint"; empty: a new run
  int restarts = 0;
  bool elastic = false;
  std::optional<int> min_workers;  // none: 1 of an elastic job, all of another
  TransportChoice transport;
};

// A secret that only this job's processes know, unless somebody gave one.
void ensure_token() {
  if (process_environment("BALLOT_TOKEN")) return;
  std::random_device random;
  setenv("BALLOT_TOKEN",
         fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random()).c_str(),
         1);
}

// Workers over gRPC meet at a port of this machine's loopback; mpirun only starts them.
void prepare_grpc(LocalJob& job, const TransportChoice& transport) {
  const auto add = [&job](const char* flag, const std::string& value) {
    if (!value.empty()) job.command.insert(job.command.end(), {flag, value});
  };
  add("--tls-ca", transport.tls.ca);
  add("--tls-certificate", transport.tls.certificate);
  add("--tls-key", transport.tls.key);
  add("--tls-name", transport.tls.name);
  if (transport.insecure) job.command.push_back("--insecure");
  if (!process_environment("MASTER_ADDR")) setenv("MASTER_ADDR", "127.0.0.1", 1);
  if (!process_environment("MASTER_PORT"))
    setenv("MASTER_PORT", std::to_string(find_free_port()).c_str(), 1);
  ensure_token();
}

// What a job can be resumed from.
bool has_state(const RunConfig& config, const std::string& resume_from) {
  return has_checkpoints(config.output_folder) ||
         (resume_from != "checkpoint" &&
          !shard_workers(system_disk(), config.output_folder).empty());
}

void check_folder(const RunConfig& config, const std::string& resume_from) {
  if (resume_from.empty())
    require_unused_folder(config.output_folder);
  else if (!has_state(config, resume_from))
    throw ConfigError("--resume: {} holds no whole checkpoint",
                      config.output_folder + "/checkpoints");
  else
    require_same_run(config);
}

// What would fail on every worker fails here once, with one message.
void check_inputs(const RunConfig& config, bool resume) {
  const std::unique_ptr<Architecture> architecture = read_architecture(config.model_folder);
  find_device(config, *architecture);  // which the family may not run on
  if (!resume) check_parameters(config.model_folder, architecture->parameter_shapes());
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(config.model_folder);
  check_data(config, *architecture, RunData(config, *tokenizer));
}

// What NCCL would refuse once all workers have met.
void check_nccl(const RunConfig& config, int workers) {
  if (find_device(config.device).kind != Device::Kind::cuda)
    throw ConfigError("--transport nccl: train.device = \"{}\" is no GPU; expected \"cuda\"",
                      config.device);
  if (const int gpus = cuda_core().device_count(); gpus < workers)
    throw ConfigError(
        "--transport nccl: {} workers on a machine with {} GPUs; expected one for each", workers,
        gpus);
  if (config.members > 1)
    throw ConfigError("--transport nccl: it carries vote.members = 1 only, not {}", config.members);
  if (const Schedule schedule = config.vote_schedule.value_or(Schedule::sharded);
      !goes_from_gpu_to_gpu(schedule))
    throw ConfigError(
        "--transport nccl: it does not carry vote.schedule = \"{}\"; expected \"sharded\", "
        "\"lanes\" or \"hierarchical\"",
        to_string(schedule));
}

LocalJob make_job(const RunConfig& config, const LaunchFlags& flags, int workers,
                  const std::string& resume) {
  LocalJob job;
  job.command = {std::filesystem::read_symlink("/proc/self/exe").string(), "train", flags.run_file};
  for (const std::string& setting : flags.settings)
    job.command.insert(job.command.end(), {"--set", setting});
  if (!resume.empty()) job.command.push_back("--resume=" + resume);
  if (flags.transport.name == "loopback")
    throw ConfigError(
        "--transport loopback: it reaches threads of one process only; expected mpi or grpc");
  if (flags.transport.name == "grpc" && workers > 1) {
    job.command.insert(job.command.end(), {"--transport", "grpc"});
    prepare_grpc(job, flags.transport);
  } else if (flags.transport.tls.given() || flags.transport.insecure) {
    throw ConfigError("--{}: needs --transport grpc and more than one worker",
                      flags.transport.insecure ? "insecure" : "tls-...");
  } else if (flags.transport.name == "nccl") {
    check_nccl(config, workers);
    job.command.insert(job.command.end(), {"--transport", "nccl"});
  }
  job.workers = workers;
  job.threads_per_worker =
      config.threads > 0 ? static_cast<int>(config.threads) : default_threads(workers);
  job.log_folder = config.output_folder + "/logs";
  job.drain_signal = SIGUSR1;
  return job;
}

// A peer, the network, a deadline, or a worker that a signal ended: what was wrong may be over.
bool may_succeed_again(const JobResult& result) {
  return !result.asked_to_stop &&
         (result.lost || result.exit_code == static_cast<int>(ExitCode::retry));
}

// A coordinator beside them, and whoever dies is started again where it was.
int launch_elastic(const RunConfig& config, const LaunchFlags& flags) {
  if (!flags.resume.empty())
    throw ConfigError(
        "--resume: an elastic run always goes on where its journals end; leave the flag out");
  if (flags.transport.name != "auto" || flags.transport.tls.given())
    throw ConfigError(
        "--elastic: its workers reach each other over gRPC on this machine's loopback; expected "
        "neither --transport nor --tls-...");
  if (flags.workers % config.members != 0)
    throw ConfigError("vote.members = {}: {} workers cannot be cut into voters of {}",
                      config.members, flags.workers, config.members);
  const int members = static_cast<int>(config.members), voters = flags.workers / members;
  const int min_voters = flags.min_workers.value_or(1);
  if (min_voters > voters)
    throw ConfigError("--min-workers {}: expected at most {}, the voters of {} workers", min_voters,
                      voters, flags.workers);
  if (std::filesystem::exists(config.output_folder + "/run.toml")) require_same_run(config);
  check_inputs(config, false);
  ensure_token();
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string(),
                    address = fmt::format("127.0.0.1:{}", find_free_port());
  const int threads =
      config.threads > 0 ? static_cast<int>(config.threads) : default_threads(flags.workers);
  setenv("OMP_NUM_THREADS", std::to_string(threads).c_str(), 1);
  setenv("OMP_WAIT_POLICY", "passive", 1);
  ElasticJob job;
  job.coordinator = {program,
                     "coordinator",
                     config.output_folder,
                     "--listen",
                     address,
                     "--start-workers",
                     std::to_string(voters),
                     "--min-workers",
                     std::to_string(min_voters)};
  for (int voter = 0; voter < voters; ++voter) {
    // A voter's members meet over MPI; mpirun ends with any of them, and is started again.
    std::vector<std::string> command;
    if (members > 1) command = mpirun_words(members, threads);
    command.insert(command.end(), {program, "train", flags.run_file, "--coordinator", address,
                                   "--worker", fmt::format("{}", voter)});
    for (const std::string& setting : flags.settings)
      command.insert(command.end(), {"--set", setting});
    job.workers.push_back(std::move(command));
  }
  if (members > 1)
    job.leave_signal = SIGUSR1;  // mpirun passes it on, and ends its workers on others
  job.log_folder = config.output_folder + "/logs";
  job.restarts = flags.restarts;
  return run_elastic_job(job);
}

// With whom a job goes on that has lost a worker: the machine that it was on may be gone. Whole
// voters, whole nodes of a hierarchical vote.
int workers_left(const RunConfig& config, int workers, int min_workers) {
  const auto unit = static_cast<int>(std::lcm(config.members, config.node_size));
  return workers - unit >= min_workers ? workers - unit : workers;
}

int launch(const LaunchFlags& flags) {
  const RunConfig config = read_run_config(flags.run_file, flags.settings);
  set_thread_count(1);  // run_local_job takes signals, which a second thread would get in its stead
  if (flags.elastic) return launch_elastic(config, flags);
  const int min_workers = flags.min_workers.value_or(flags.workers);
  if (min_workers > flags.workers)
    throw ConfigError("--min-workers {}: expected at most {}, the workers", min_workers,
                      flags.workers);
  if (flags.min_workers && flags.restarts == 0)
    throw ConfigError(
        "--min-workers {}: says with how many a job is started again; expected --restarts (or "
        "--elastic) too",
        min_workers);
  check_folder(config, flags.resume);
  check_inputs(config, !flags.resume.empty());
  const bool port_is_given = process_environment("MASTER_PORT").has_value();
  int workers = flags.workers;
  LocalJob job = make_job(config, flags, workers, flags.resume);
  std::filesystem::create_directories(job.log_folder);
  JobResult result = run_local_job(job);
  const std::string resume_from = flags.resume.empty() ? "journal" : flags.resume;
  for (int restart = 1;
       restart <= flags.restarts && may_succeed_again(result) && has_state(config, resume_from);
       ++restart) {
    if (result.lost) workers = workers_left(config, workers, min_workers);
    log_warning(
        "{}; starting it again from its newest state{} ({} of {} restarts)",
        result.lost
            ? fmt::format("worker {} was lost to signal {}", result.lost->rank, result.lost->signal)
            : fmt::format("the job ended with exit code {}", result.exit_code),
        workers < flags.workers ? fmt::format(" with {} of {} workers", workers, flags.workers)
                                : "",
        restart, flags.restarts);
    if (!port_is_given) unsetenv("MASTER_PORT");  // the old one may not be free yet
    result = run_local_job(make_job(config, flags, workers, resume_from));
  }
  const std::string latest = config.output_folder + "/checkpoints/latest";
  if (result.exit_code != 0) {
    const std::string resume =
        std::filesystem::exists(latest)
            ? fmt::format("the newest checkpoint is {}/checkpoints/{}; go on from it with --resume",
                          config.output_folder, std::filesystem::read_symlink(latest).string())
            : "there is no checkpoint yet";
    if (result.lost)
      log_error("worker {} was lost to signal {}; {}", result.lost->rank, result.lost->signal,
                resume);
    else
      log_error("the job ended with exit code {}; {}", result.exit_code, resume);
  }
  return result.exit_code;
}

}  // namespace

void add_launch(CLI::App& app, Action& action) {
  auto flags = std::make_shared<LaunchFlags>();
  CLI::App* command =
      app.add_subcommand("launch", "start a job of several workers on this machine");
  command->add_option("run", flags->run_file, "the run file (TOML)")->required();
  command->add_option("--workers", flags->workers, "number of workers")
      ->required()
      ->check(CLI::Range(1, 1024));
  command->add_option("--set", flags->settings, "key=value, over the run file")
      ->type_name("KEY=VALUE");
  add_transport_flags(*command, flags->transport, true);
  add_resume_flag(*command, flags->resume);
  command
      ->add_option(
          "--restarts", flags->restarts,
          "start the job again from its newest state, so many times at most, when a worker "
          "is lost or a retry can help; with --elastic: the worker alone")
      ->check(CLI::Range(0, 1000000));
  command->add_flag(
      "--elastic", flags->elastic,
      "with a coordinator: a worker that dies ends nobody's step, and is started again where it "
      "was (--restarts); a run that was begun goes on");
  command
      ->add_option(
          "--min-workers", flags->min_workers,
          "with --restarts: a job that has lost a worker is started again without one in its "
          "place, as long as so many are left (all, unless given); with --elastic: with fewer "
          "voters the run waits for the others (1, unless given)")
      ->check(CLI::Range(1, 1024));
  command->callback([&action, flags] { action = [flags] { return launch(*flags); }; });
}

}  // namespace ballot
