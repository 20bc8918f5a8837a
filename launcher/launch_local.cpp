// `ballot launch` of a fixed job on this machine: mpirun starts the workers.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "core/log.h"
#include "core/parallel.h"
#include "launcher/cluster/host_job.h"  // threads_of_workers
#include "launcher/environment.h"
#include "launcher/free_port.h"
#include "launcher/launch_checks.h"
#include "launcher/launch_flags.h"
#include "launcher/launch_job.h"
#include "launcher/launch_preflight.h"
#include "launcher/local_job.h"
#include "launcher/shell_words.h"

namespace ballot {
namespace {

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

// mpirun's hosts have been looked at by the preflight.
void check_nccl_here(const RunConfig& config, const LaunchFlags& flags, int workers) {
  check_nccl(config, machines_of(flags));
  if (flags.on == "mpirun") return;
  if (const int gpus = cuda_core().device_count(); gpus < workers)
    throw ConfigError(
        "--transport nccl: {} workers on a machine with {} GPUs; expected one for each", workers,
        gpus);
}

LocalJob make_job(const RunConfig& config, const LaunchFlags& flags, int workers,
                  const std::string& resume) {
  LocalJob job;
  job.command = {flags.program.empty() ? std::filesystem::read_symlink("/proc/self/exe").string()
                                       : flags.program,
                 "train", flags.run_file};
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
    check_nccl_here(config, flags, workers);
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

// Looked at by ssh, which mpirun reaches them by too; a dry run looks at nothing.
MpiHosts find_hosts(const RunConfig& config, const LaunchFlags& flags) {
  if (flags.transport.name != "auto" && flags.transport.name != "mpi" &&
      flags.transport.name != "nccl")
    throw ConfigError("--transport {}: --on mpirun is for MPI and NCCL; for gRPC launch --on ssh",
                      flags.transport.name);
  if (flags.elastic)
    throw ConfigError("--elastic: mpirun ends a job with any of its workers; launch --on ssh");
  MpiHosts hosts;
  if (flags.transport.name == "nccl") hosts.nccl_interfaces = check_nccl_flags(config, flags);
  const Placement placement(read_hosts(flags.hosts), flags.workers, 1);
  const Starter starter = starter_of(flags);
  Preflight seen;
  seen.network.of_host = {{"INTERFACE", "", 0}};
  hosts.network = "NETWORK";
  if (!flags.dry_run) {
    seen = look_before_launch(config, flags, placement, starter);
    require_ready(seen);
    hosts.network = network_text(seen.network.of_host[0]);
    // One number for all of them: of the host that has least.
    const std::vector<int> threads = threads_of_workers(placement, seen);
    hosts.threads_per_worker = *std::min_element(threads.begin(), threads.end());
  }
  for (const Host& host : placement.hosts())
    hosts.hosts += fmt::format("{}{}:{}", hosts.hosts.empty() ? "" : ",", host.name, host.slots);
  for (const std::string& word : starter.ssh) {
    if (word.find_first_of(" \t") != std::string::npos)
      throw ConfigError(
          "--ssh {}: mpirun parts words at every blank, and \"{}\" has one; put it into ssh's own "
          "configuration",
          flags.ssh, word);
    hosts.ssh += (hosts.ssh.empty() ? "" : " ") + word;
  }
  hosts.folder = std::filesystem::current_path().string();
  if (flags.transport.name == "nccl" && hosts.nccl_interfaces.empty()) {
    hosts.nccl_interfaces = nccl_interface(seen.network.of_host[0]);
    for (const NetworkInterface& interface : seen.network.of_host)
      if (nccl_interface(interface) != hosts.nccl_interfaces)
        throw ConfigError(
            "--transport nccl: hosts call their interfaces to {} differently ({}, {}), and mpirun "
            "gives all workers one NCCL_SOCKET_IFNAME; set it, or launch --on ssh",
            hosts.network, seen.network.of_host[0].name, interface.name);
  }
  return hosts;
}

void place_on(const MpiHosts& hosts, const RunConfig& config, LocalJob& job) {
  job.hosts = hosts;
  if (!hosts.hosts.empty() && config.threads == 0)
    job.threads_per_worker = hosts.threads_per_worker;
}

// With whom a job goes on that has lost a worker: the machine that it was on may be gone. Whole
// voters, whole nodes of a hierarchical vote.
int workers_left(const RunConfig& config, int workers, int min_workers) {
  const auto unit = static_cast<int>(std::lcm(config.members, config.node_size));
  return workers - unit >= min_workers ? workers - unit : workers;
}

}  // namespace

int launch_local(const RunConfig& config, const LaunchFlags& flags, LaunchedJob& launched) {
  const int min_workers = flags.min_workers.value_or(flags.workers);
  if (min_workers > flags.workers)
    throw ConfigError("--min-workers {}: expected at most {}, the workers", min_workers,
                      flags.workers);
  if (flags.min_workers && flags.restarts == 0)
    throw ConfigError(
        "--min-workers {}: says with how many a job is started again; expected --max-restarts (or "
        "--elastic) too",
        min_workers);
  check_folder(config, flags.resume);
  check_inputs(config, !flags.resume.empty(), machines_of(flags));
  const bool port_is_given = process_environment("MASTER_PORT").has_value();
  int workers = flags.workers;
  MpiHosts hosts;
  if (flags.on == "mpirun") hosts = find_hosts(config, flags);
  if (flags.detach && !flags.dry_run && launched.detach()) return 0;
  LocalJob job = make_job(config, flags, workers, flags.resume);
  place_on(hosts, config, job);
  if (flags.dry_run) {
    fmt::print("# NETWORK, INTERFACE and threads are the preflight's to choose\n{}\n",
               shell_line(mpirun_on_hosts(job)));
    return 0;
  }
  std::filesystem::create_directories(job.log_folder);
  launched.begin();
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
    job = make_job(config, flags, workers, resume_from);
    place_on(hosts, config, job);
    result = run_local_job(job);
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
  launched.end(result.exit_code);
  return result.exit_code;
}

}  // namespace ballot
