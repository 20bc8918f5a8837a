// The one place where parameters and replicated state change: a step's verdict and means, applied.
// The live run and `ballot replay` both go through it, so that they cannot drift apart.
//
//   vote:  verdict -> parameters                       (private momentum has moved before)
//   mean:  mean gradient -> AdamW's moments, or momentum and direction -> parameters
//   mean under a sign rule: mean gradient -> momentum -> direction -> verdict of that one voter
//
// All factors are numbers computed once (factors()) and then handed in: a replay on another machine
// takes those that were recorded.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "collectives/transport/loopback_transport.h"
#include "collectives/vote.h"
#include "optim/newton_schulz.h"
#include "runtime/before_change.h"
#include "runtime/journal/record.h"  // TensorFactors
#include "runtime/step_layout.h"

namespace ballot {

// What a step decided, the same on every worker: all that changes parameters.
struct StepDecision {
  const Verdict* verdict = nullptr;  // null: nothing is voted on
  // By wire type; contributors by tensor of that type, 0: nobody, no update.
  std::array<std::span<float>, 2> means;
  // Where GPUs have exchanged them they lie there, and in `means` only if a journal wants them.
  std::array<float*, 2> device_means{};
  std::array<std::span<const std::int32_t>, 2> contributors;
};

// Of the step that comes next, by tensor: `rate_factor` is the schedule's, `counts` are AdamW's
// updates so far, by tensor, `contributors` as in the decision.
void find_factors(const OptimizerState& state, const StepLayout& layout,
                  std::span<const std::int64_t> counts, double rate_factor,
                  const std::array<std::span<const std::int32_t>, 2>& contributors,
                  std::span<TensorFactors> factors);

class StepUpdate {
 public:
  // All of these must outlive it. Memory is taken here.
  StepUpdate(const ParameterArena& arena, OptimizerState& state, const StepLayout& layout,
             std::uint64_t seed, Ties ties);
  ~StepUpdate();

  // Called before each change of a parameter or of what is replicated beside it.
  void before_change(BeforeChange call) { before_change_ = std::move(call); }

  // Of the step that comes next, by tensor; `rate_factor` is the schedule's.
  const std::vector<TensorFactors>& find_factors(double rate_factor, const StepDecision& decision);

  // s. A GPU is only waited for at the end, which is apply's.
  struct Times {
    double direction = 0, pack = 0, apply = 0;
  };
  // `step` counts from 0. Returns one digest per parameter, in arena order.
  const std::vector<std::uint64_t>& apply(std::int64_t step, const StepDecision& decision,
                                          std::span<const TensorFactors> factors);
  // Of the last apply(). What is frozen is digested by the first one, and then a tensor a step in
  // turn: damage in it is seen within as many steps as tensors are frozen.
  const std::vector<std::uint64_t>& digests() const { return digests_; }
  // Somebody else has changed parameters (a repair, a checkpoint): the next apply() digests all
  // that is frozen.
  void parameters_changed() { frozen_digested_ = false; }
  const Times& times() const { return times_; }  // of the last apply()

 private:
  void will_change(const Parameter& parameter, Changing what) const {
    if (before_change_) before_change_(parameter, what);
  }
  // Where a GPU's pass over the parameter leaves its digest until fetch_digests(); null: it has it
  // at once.
  std::uint64_t* later(const Parameter& parameter);
  void take_digest(const Parameter& parameter, std::uint64_t digest);
  void fetch_digests();
  void digest_frozen(std::int64_t step);
  bool has_mean(const ParameterState& state, const StepDecision& decision) const;
  Tensor mean_gradient(const ParameterState& state, const StepDecision& decision);
  Tensor find_mean_direction(ParameterState& state, const StepDecision& decision);
  void cast_mean(ParameterState& state, std::int64_t step, const StepDecision& decision);
  void apply_dense(ParameterState& state, const StepDecision& decision,
                   const TensorFactors& factors);

  const ParameterArena& arena_;
  OptimizerState& state_;
  const StepLayout& layout_;
  std::uint64_t seed_;
  BeforeChange before_change_;
  std::unique_ptr<Transport> alone_;
  std::unique_ptr<Ballot> mean_ballot_;
  std::unique_ptr<Vote> mean_vote_;
  std::array<std::unique_ptr<NewtonSchulz>, 2> newton_schulz_;  // f32, bf16
  Buffer direction_;                                            // scratch of the largest parameter
  // Of a GPU, once a mean has come to the host: that of the parameter in work.
  Buffer gradient_;
  std::size_t largest_mean_bytes_ = 0;
  std::vector<TensorFactors> factors_;
  std::vector<std::int64_t> counts_;  // scratch of find_factors()
  std::vector<std::uint64_t> digests_;
  Buffer device_digests_;  // of a GPU: by tensor, on the device and on their way to the host
  PinnedBuffer arrived_digests_;
  std::vector<std::size_t> awaited_digests_;
  std::vector<const BallotSegment*> awaited_ballots_;
  std::vector<const Parameter*> frozen_;
  bool frozen_digested_ = false;
  Times times_;
  Stream stream_;
};

}  // namespace ballot
