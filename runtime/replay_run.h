// The parameters of any step that a run's journal still reaches, rebuilt from its folder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/replay.h"

namespace ballot {

struct ReplayedRun {
  std::string base;            // the checkpoint, or the run's starting model
  std::int64_t from_step = 0;  // of the base
  std::int64_t to_step = 0;
  ReplayReport report;
  std::uint64_t parameters = 0;        // digest of all, after to_step
  std::vector<std::uint64_t> tensors;  // the digest of each, in arena order
  Digest chain;                        // of the journal, after to_step
  bool last_proved = false;      // the parameters of to_step have the digest that the run left
  std::int64_t whole_until = 0;  // the last step that the journal could rebuild from this base
  std::string gap;               // why no further; empty: it ends there
};

// From the newest whole checkpoint that is not after `to_step` (none: where the journal ends), or
// from the starting model, by the journal, proving each step by its digest. Changes nothing in the
// run, which may be going on. With `output` not empty the parameters are written there as a Hugging
// Face folder, which must not exist or be empty. ConfigError where the run keeps no journal or the
// step is not retained, saying what is; DataError or CorruptFile for what is damaged or wrong. A
// checkpoint that is damaged, or whose parameters are not what its state says, is named in a
// warning and passed over. Memory: two arrays of the parameters in fp32, and what averaged groups
// remember.
ReplayedRun replay_run(const std::string& run_folder, std::optional<std::int64_t> to_step,
                       const std::string& output);
// Of a run with this configuration, where its folder may hold none: a worker of it asks.
ReplayedRun replay_run(const RunConfig& config, const std::string& run_folder,
                       std::optional<std::int64_t> to_step, const std::string& output);

}  // namespace ballot
