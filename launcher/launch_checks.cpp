#include "launcher/launch_checks.h"

#include <cstdlib>
#include <memory>
#include <random>

#include "core/error.h"
#include "launcher/environment.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "models/tokenizer.h"
#include "runtime/checkpoint.h"
#include "runtime/journal/shards.h"
#include "runtime/run_data.h"
#include "runtime/run_folder.h"

namespace ballot {

std::string ensure_token() {
  if (const auto given = process_environment("BALLOT_TOKEN")) return *given;
  std::random_device random;
  const std::string token =
      fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
  setenv("BALLOT_TOKEN", token.c_str(), 1);
  return token;
}

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

void check_inputs(const RunConfig& config, bool resume, Machines machines) {
  const std::unique_ptr<Architecture> architecture = read_architecture(config.model_folder);
  // Which the family may not run on.
  if (machines == Machines::this_one || !architecture->runs_on(Device::Kind::cuda))
    find_device(config, *architecture);
  if (!resume) check_parameters(config.model_folder, architecture->parameter_shapes());
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(config.model_folder);
  check_data(config, *architecture, RunData(config, *tokenizer));
}

void check_nccl(const RunConfig& config, Machines machines) {
  if (machines == Machines::this_one ? find_device(config.device).kind != Device::Kind::cuda
                                     : config.device == "cpu")
    throw ConfigError("--transport nccl: train.device = \"{}\" is no GPU; expected \"cuda\"",
                      config.device);
  if (config.members > 1)
    throw ConfigError("--transport nccl: it carries vote.members = 1 only, not {}", config.members);
  if (const Schedule schedule = config.vote_schedule.value_or(Schedule::sharded);
      !goes_from_gpu_to_gpu(schedule))
    throw ConfigError(
        "--transport nccl: it does not carry vote.schedule = \"{}\"; expected \"sharded\", "
        "\"lanes\" or \"hierarchical\"",
        to_string(schedule));
}

}  // namespace ballot
