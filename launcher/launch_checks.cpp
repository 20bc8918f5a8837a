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

void check_inputs(const RunConfig& config, bool resume) {
  const std::unique_ptr<Architecture> architecture = read_architecture(config.model_folder);
  find_device(config, *architecture);  // which the family may not run on
  if (!resume) check_parameters(config.model_folder, architecture->parameter_shapes());
  const std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(config.model_folder);
  check_data(config, *architecture, RunData(config, *tokenizer));
}

}  // namespace ballot
