// A voter's whole say in one step, kept until the step is held: its bits, what it gives to means,
// and its loss; and the parts of it that owners need.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "collectives/ballot.h"
#include "core/gradient_sink.h"
#include "models/model.h"  // Loss
#include "runtime/ballot_caster.h"
#include "runtime/protocol/worker_messages.h"
#include "runtime/step_layout.h"

namespace ballot {

struct VoterBallot {
  explicit VoterBallot(const StepLayout& layout);
  std::optional<Ballot> bits;                            // none: nothing is voted on
  std::array<std::vector<float>, 2> means;               // by wire type; empty where not in use
  std::array<std::vector<std::uint8_t>, 2> contributes;  // by tensor of that type
  Loss loss;
  bool loss_fault = false;
  std::int64_t gradient_faults = 0;  // tensors left out
};

// The part that the owner of `chunk` of `chunks` needs; the means and the loss go with chunk 0.
BallotData part_of(const VoterBallot& ballot, const StepLayout& layout, int chunk, int chunks);

// Whether such a part has the sizes that it must have; a ballot of another model has not.
bool has_sizes_of(const BallotData& part, const StepLayout& layout, int chunk, int chunks);

// Takes a model's gradients and fills a ballot: of a voter that is one worker.
class BallotMaker : public GradientSink {
 public:
  // Both must outlive it.
  BallotMaker(OptimizerState& state, const StepLayout& layout, std::uint64_t seed);
  // `step` counts from 0, as in votes everywhere. `ballot` must outlive the gradients. Gradients
  // that do not count are as if they were not finite, but are no fault.
  virtual void begin(std::int64_t step, int voter, VoterBallot& ballot, bool counts = true);
  void loss_known(double mean_loss) override;
  void ready(const Parameter& parameter, Stream& stream) override;
  // After differentiate(): LogicError where a gradient was not reported.
  virtual void finish(const Loss& loss);
  void before_change(BeforeChange call) { caster_.before_change(std::move(call)); }
  const BallotCaster::Times& times() const { return caster_.times(); }
  virtual std::uint64_t bytes_sent() const { return 0; }  // inside the voter

 protected:
  bool usable() const { return counts_ && !ballot_->loss_fault; }
  // Where tensors are cast to: a GPU needs memory of its own, which is not made anew in each step.
  Ballot& target() { return cast_from_gpu_ ? *cast_from_gpu_ : *ballot_->bits; }
  // Takes up what has come of the tensors cast so far, or with `wait` what is to come.
  void take_made(bool wait);

  OptimizerState& state_;
  const StepLayout& layout_;
  BallotCaster caster_;
  std::unique_ptr<Ballot> cast_from_gpu_;
  VoterBallot* ballot_ = nullptr;
  std::int64_t step_ = 0;
  std::size_t ready_count_ = 0;
  bool counts_ = true;
};

}  // namespace ballot
