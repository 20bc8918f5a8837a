// `ballot launch --elastic` on this machine.
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "launcher/cluster/supervisor.h"
#include "launcher/environment.h"
#include "launcher/free_port.h"
#include "launcher/launch_checks.h"
#include "launcher/launch_flags.h"
#include "launcher/launch_job.h"
#include "launcher/mpirun.h"
#include "runtime/run_folder.h"

namespace ballot {

// A coordinator beside them, and whoever dies is started again where it was.
int launch_elastic(const RunConfig& config, const LaunchFlags& flags, LaunchedJob& launched) {
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
  check_inputs(config, false, Machines::this_one);
  ensure_token();
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string(),
                    address = fmt::format("127.0.0.1:{}", find_free_port());
  const int threads =
      config.threads > 0 ? static_cast<int>(config.threads) : default_threads(flags.workers);
  setenv("OMP_NUM_THREADS", std::to_string(threads).c_str(), 1);
  setenv("OMP_WAIT_POLICY", "passive", 1);
  const auto start = [](std::vector<std::string> words) {
    return [words = std::move(words)](bool) { return StartCommand{words, ""}; };
  };
  SupervisedJob job;
  std::vector<std::string> coordinator = {program,
                                          "coordinator",
                                          config.output_folder,
                                          "--listen",
                                          address,
                                          "--start-workers",
                                          std::to_string(voters),
                                          "--min-workers",
                                          std::to_string(min_voters)};
  if (!config.prometheus.empty())
    coordinator.insert(coordinator.end(), {"--prometheus", config.prometheus});
  job.coordinator = {"coordinator", start(std::move(coordinator))};
  for (int voter = 0; voter < voters; ++voter) {
    // A voter's members meet over MPI; mpirun ends with any of them, and is started again.
    std::vector<std::string> command;
    if (members > 1) command = mpirun_words(members, threads);
    command.insert(command.end(), {program, "train", flags.run_file, "--coordinator", address,
                                   "--worker", fmt::format("{}", voter)});
    for (const std::string& setting : flags.settings)
      command.insert(command.end(), {"--set", setting});
    job.workers.push_back({fmt::format("worker {}", voter), start(std::move(command))});
  }
  if (members > 1)
    job.leave_signal = SIGUSR1;  // mpirun passes it on, and ends its workers on others
  job.log_folder = config.output_folder + "/logs";
  job.restarts = flags.restarts;
  if (flags.detach && launched.detach()) return 0;
  launched.begin();
  const int exit_code = supervise(job).exit_code;
  launched.end(exit_code);
  return exit_code;
}

}  // namespace ballot
