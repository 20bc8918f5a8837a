// What is checked of a run's folder and data before it starts, by the launcher once and by every
// worker again.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "models/llama/llama_config.h"
#include "runtime/run_config.h"

namespace ballot {

// ConfigError if the folder holds a run or checkpoints already.
void require_unused_folder(const std::string& output_folder);

// ConfigError naming every key of output.folder's run.toml that a resume would change though bits
// depend on it: a resumed run is the same run. The number of steps, where files lie, what is
// recorded how often, and threads may change; each such change is a line in the log.
void require_same_run(const RunConfig& config);

// DataError if a token is outside the model's vocabulary; ConfigError if a sequence is longer than
// its positions.
void check_data(const RunConfig& config, const LlamaConfig& model,
                std::span<const std::int32_t> training, std::span<const std::int32_t> held_out);

}  // namespace ballot
