// Rebuilding parameters from records: the same update as the live run's, proved by its digests.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/checkpoint.h"  // TrainingState
#include "runtime/decision_record.h"
#include "runtime/journal/shards.h"
#include "runtime/run_config.h"
#include "runtime/step_update.h"

namespace ballot {

// Why a run of this configuration keeps no journal, or cannot be replayed; empty: it can. What a
// journal would have to hold beside verdicts is in `layout`.
std::string why_not_journaled(const RunConfig& config, const StepLayout& layout);

// The digest that a run's history begins with: of all that replaying depends on and no record
// holds (groups, ties, seed, shapes) and of the parameters before the first of its steps.
Digest history_origin(const RunConfig& config, const ParameterArena& arena,
                      std::uint64_t parameters, std::int64_t step);

class Replay {
 public:
  // All of these must outlive it; `state` as the position to go on from has it.
  Replay(const ParameterArena& arena, OptimizerState& state, const StepLayout& layout,
         std::uint64_t seed, Ties ties);
  void before_change(BeforeChange call) { update_.before_change(std::move(call)); }
  void parameters_changed() { update_.parameters_changed(); }  // as StepUpdate's
  // Applies the next record; one digest per parameter.
  const std::vector<std::uint64_t>& apply(const Record& record);

 private:
  RecordedDecision decision_;
  StepUpdate update_;
};

// Which tensor's digest is another one first, in words, where the journal tells of tensors.
std::string describe_difference(const AppliedRecord& expected,
                                const std::vector<std::uint64_t>& found,
                                const ParameterArena& arena);

// DataError naming the step, both digests and the first tensor that differs.
void require_digests(const AppliedRecord& expected, const std::vector<std::uint64_t>& found,
                     const ParameterArena& arena);

struct ReplayReport {
  std::int64_t steps = 0;   // replayed
  std::int64_t proved = 0;  // of them, by the digest that the live run left
  std::int64_t bytes = 0;   // of their verdicts and means
};

// Replays a history up to `to_step` and moves `training` (step, samples, tokens, digest, place in
// the journal) with it. A sequence counts `tokens_per_sample` tokens where no digest says more.
ReplayReport replay(const JournalShards& shards, const JournalShards::History& history,
                    std::int64_t to_step, const ParameterArena& arena, Replay& replay,
                    std::int64_t tokens_per_sample, TrainingState& training);

}  // namespace ballot
