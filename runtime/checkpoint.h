// A checkpoint: a Hugging Face folder anyone can load, plus trainer/ with what a resumed run needs.
//
//   RUN/checkpoints/step-00000150/  config.json model.safetensors tokenizer files        (fp32
//   masters)
//                                   trainer/state.json           step, counters, digest
//                                   trainer/voter-<i>.safetensors   private momentum of voter i
//                                   (voter-<i>-member-<m>: of what its member m works on)
//                                   trainer/replicated.safetensors  momentum and AdamW state of
//                                   averaged groups trainer/manifest.json        size and XXH3
//                                   digest of every file
//   RUN/checkpoints/latest -> step-00000150
//
// Written to a temporary folder, every file fsynced, then the manifest, then renamed, and `latest`
// moves last: a kill at any instant leaves the previous checkpoint whole. Verified against its
// manifest before anything is read from it. All workers see the same folder (one machine or a
// shared file system).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "core/digest.h"
#include "runtime/optimizer_state.h"

namespace ballot {

// Where a state stands in its run's journal: the history that it belongs to, and the chain so far.
struct JournalPlace {
  Digest run, chain;
};

struct TrainingState {
  std::int64_t step = 0;            // steps done
  std::int64_t sample_counter = 0;  // next sample id
  std::int64_t tokens_total = 0;
  // For the record, and to say when bits may differ after a resume:
  std::int64_t workers = 1;
  std::int64_t members = 1;  // of a voter
  std::int64_t threads = 1;
  std::string processor;
  std::string compute;
  std::uint64_t digest = 0;             // of all parameters
  std::optional<JournalPlace> journal;  // none: the run keeps no journal
};

// `patience` is how long a worker waits for the others each time it does, from when its own part is
// done.
//
// Collective. Returns the checkpoint's path. Checkpoints of later steps (of a run that was resumed
// from before them) go; of the others the newest `keep` stay, always this one. Every worker throws
// when one of them fails, naming it.
std::string save_checkpoint(const std::string& run_folder, const std::string& side_files_from,
                            const TrainingState& training, const ParameterArena& arena,
                            const OptimizerState& state, std::int64_t keep, Transport& transport,
                            Duration patience);

// Collective. The newest checkpoint that its manifest proves whole (worker 0 looks; a damaged one
// is named in a warning and the one before is taken); none: empty.
std::optional<std::string> find_checkpoint(const std::string& run_folder, Transport& transport,
                                           Duration patience);

// Whether the run folder holds any checkpoint, whole or not.
bool has_checkpoints(const std::string& run_folder);

// The run's checkpoints, whole or not, the newest first.
struct CheckpointName {
  std::int64_t step = 0;
  std::string path;
};
std::vector<CheckpointName> checkpoint_names(const std::string& run_folder);

// Its trainer/state.json alone.
TrainingState read_training_state(const std::string& path);

// Reads parameters, this worker's momentum (voter i of W takes that of i mod the old W; none where
// `state` keeps no private momentum) and the replicated state.
TrainingState load_checkpoint(const std::string& path, const ParameterArena& arena,
                              OptimizerState& state, int voter);

// Throws CorruptFile naming the first file that is missing or is not what the manifest says.
void verify_checkpoint(const std::string& path);

}  // namespace ballot
