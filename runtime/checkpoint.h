// A checkpoint: a Hugging Face folder anyone can load, plus trainer/ with what a resumed run needs.
//
//   RUN/checkpoints/step-00000150/  config.json, tokenizer files
//                                   model.safetensors              fp32 masters; of large models
//                                   (model-<i>-of-<n>.safetensors, model.safetensors.index.json)
//                                   trainer/state.json             step, counters, digest
//                                   trainer/voter-<i>.safetensors  private momentum of voter i
//                                   (voter-<i>-member-<m>: of what its member m works on)
//                                   trainer/replicated.safetensors momentum and AdamW state of
//                                   (replicated-<i>-of-<n>)        averaged groups
//                                   trainer/part-<i>-of-<n>.json   what share i has written
//                                   trainer/manifest.json          size and XXH3 digest of every
//                                                                  file
//   RUN/checkpoints/latest -> step-00000150
//
// Written share by share (checkpoint_writer.h) into a folder with a temporary name, published when
// all shares are durable (checkpoint_publish.h). Verified against its manifest before anything is
// read from it. All workers see the same folder (one machine or a shared file system).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/parameter_arena.h"
#include "runtime/checkpoint_manifest.h"
#include "runtime/checkpoint_state.h"
#include "runtime/optimizer_state.h"

namespace ballot {

// The run's checkpoints, whole or not, the newest first.
struct CheckpointName {
  std::int64_t step = 0;
  std::string path;
};
std::vector<CheckpointName> checkpoint_names(const std::string& run_folder,
                                             Disk& disk = system_disk());
bool has_checkpoints(const std::string& run_folder);

// The newest that its manifest proves whole, at or before `most_step`; a damaged one is named in a
// warning and the one before is taken. None: empty.
std::optional<CheckpointName> find_newest_checkpoint(
    const std::string& run_folder, std::optional<std::int64_t> most_step = std::nullopt,
    Disk& disk = system_disk());

// Reads parameters, this worker's momentum (its own by number, else that of voter i mod the old W;
// none where `state` keeps no private momentum; zero where the checkpoint has none of that voter)
// and the replicated state. CorruptFile, DataError.
TrainingState load_checkpoint(const std::string& path, const ParameterArena& arena,
                              OptimizerState& state, int voter);

}  // namespace ballot
