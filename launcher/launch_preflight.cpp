#include "launcher/launch_preflight.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <set>

#include "core/error.h"
#include "launcher/environment.h"
#include "launcher/shell_words.h"
#include "models/architecture.h"
#include "runtime/memory_plan.h"

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
  needs.gpu = needs_gpus(config, flags);
  needs.nccl = flags.transport.name == "nccl";
  for (std::size_t host = 0; host < placement.hosts().size(); ++host)
    needs.workers_of_host.push_back(placement.workers_of(host));
  return needs;
}

}  // namespace

bool needs_gpus(const RunConfig& config, const LaunchFlags& flags) {
  return config.device.starts_with("cuda") || flags.transport.name == "nccl";
}

std::string nccl_interfaces(const NetworkChoice& network, const std::string& asked) {
  if (const auto given = process_environment("NCCL_SOCKET_IFNAME")) {
    if (!asked.empty())
      throw ConfigError("--interface {} and NCCL_SOCKET_IFNAME = {}: expected one of them", asked,
                        *given);
    return *given;
  }
  if (network.of_host[0].loopback) return "";
  // "=": whole names. Hosts may call theirs differently; each takes those that it has.
  std::set<std::string> names;
  for (const NetworkInterface& interface : network.of_host) names.insert(interface.name);
  return fmt::format("={}", fmt::join(names, ","));
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

Preflight look_before_launch(const RunConfig& config, const LaunchFlags& flags,
                             const Placement& placement, const Starter& starter,
                             bool compare_models) {
  PreflightNeeds needs = needs_of(config, flags, placement);
  if (!compare_models) needs.model_folder.clear();
  return look_before_start(starter, placement.hosts(), needs, fs::current_path().string());
}

void require_ready(const Preflight& seen) {
  fmt::print("{}", seen.table());
  std::fflush(stdout);
  if (!seen.refusals.empty())
    throw Error(seen.may_pass ? ExitCode::retry : ExitCode::configuration,
                fmt::format("the job was not started: {} thing{} to mend, in the table above",
                            seen.refusals.size(), seen.refusals.size() == 1 ? "" : "s"));
}

}  // namespace ballot
