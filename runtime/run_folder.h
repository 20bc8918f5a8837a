// What is checked of a run's folder and data before it starts, by the launcher once and by every
// worker again.
#pragma once

#include <string>
#include <vector>

#include "models/architecture.h"
#include "runtime/run_config.h"
#include "runtime/run_data.h"

namespace ballot {

// ConfigError if the folder holds a run or checkpoints already.
void require_unused_folder(const std::string& output_folder);

// ConfigError naming every key of output.folder's run.toml that a resume would change though bits
// depend on it: a resumed run is the same run. The number of steps, where files lie, what is
// recorded how often, and threads may change; each such change is a line in the log.
void require_same_run(const RunConfig& config);

// What the run file's device is for this model (models/architecture.h).
Device find_device(const RunConfig& config, const Architecture& model, int local_rank = 0,
                   std::string* reason = nullptr);

// The model's shapes, of which the folder of a run that begins has been found to hold the values:
// before memory is taken for them, which of a config.json that is wrong may be any amount.
std::vector<ParameterShape> shapes_to_load(const RunConfig& config, const Architecture& model,
                                           bool resume);

// DataError if a token is outside the model's vocabulary; ConfigError if a sequence is longer than
// its positions.
void check_data(const RunConfig& config, const Architecture& model, const RunData& data);

}  // namespace ballot
