#include "launcher/launch_preflight.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "core/error.h"
#include "launcher/environment.h"
#include "launcher/launch_checks.h"
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

// And says so itself: "auto" takes what there is.
bool asks_for_bf16(const RunConfig& config) {
  return config.compute == Compute::bf16 ||
         std::any_of(config.groups.begin(), config.groups.end(), [](const ParameterGroup& group) {
           return group.newton_schulz && group.newton_schulz_type == DType::bf16;
         });
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
  needs.bf16 = !needs.gpu && asks_for_bf16(config);
  for (std::size_t host = 0; host < placement.hosts().size(); ++host)
    needs.workers_of_host.push_back(placement.workers_of(host));
  return needs;
}

}  // namespace

bool needs_gpus(const RunConfig& config, const LaunchFlags& flags) {
  return config.device.starts_with("cuda") || flags.transport.name == "nccl";
}

std::string check_nccl_flags(const RunConfig& config, const LaunchFlags& flags) {
  check_nccl(config, machines_of(flags));
  const std::string given = process_environment("NCCL_SOCKET_IFNAME").value_or("");
  if (!given.empty() && !flags.interface.empty())
    throw ConfigError("--interface {} and NCCL_SOCKET_IFNAME = {}: expected one of them",
                      flags.interface, given);
  return given;
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
                             bool compare_models, bool again) {
  PreflightNeeds needs = needs_of(config, flags, placement);
  needs.again = again;
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
