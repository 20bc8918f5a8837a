// A voter's own part of a step, one tensor at a time as its gradient becomes final:
//
//   voted:     gradient -> finite? -> momentum -> direction (scratch of one matrix) -> ballot
//   averaged:  gradient -> finite? -> clipped contribution to a mean
//
// A tensor whose gradient holds a NaN or infinity is not absorbed: it abstains, or is left out of
// the mean. Knows no network: whoever sends the ballots calls it. One thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "collectives/ballot.h"
#include "core/buffer.h"
#include "optim/newton_schulz.h"
#include "runtime/before_change.h"
#include "runtime/optimizer_state.h"
#include "runtime/step_layout.h"

namespace ballot {

class BallotCaster {
 public:
  // Both must outlive it. `seed` is that of the zero coins. Memory is taken here.
  BallotCaster(const OptimizerState& state, const StepLayout& layout, std::uint64_t seed);

  // Called before each change of a momentum.
  void before_change(BeforeChange call) { before_change_ = std::move(call); }

  void begin(std::int64_t step, int voter);
  // From the next tensor on, until told otherwise; momentum stands still meanwhile.
  void abstain_from_now(bool abstains) { abstains_ = abstains; }
  bool abstains() const { return abstains_; }

  // `usable`: false where the loss was not finite. Both return whether the gradient was.
  bool cast(ParameterState& state, bool usable, Ballot& ballot);
  // One part of a cut tensor (state.part), by all who hold one of it at once: `usable` is equal for
  // all. `gradient`: of the part. What is not finite in one part is left out in all.
  bool cast_part(ParameterState& state, const Tensor& gradient, bool usable, GramSum& parts,
                 Ballot& ballot);
  struct Contribution {
    bool finite = false;
    bool counts = false;  // was put into `values`, the mean's whole buffer
  };
  Contribution contribute(const ParameterState& state, bool usable, std::span<float> values);

  struct Times {
    double direction = 0, pack = 0;  // s, since begin(), sums over parts included
  };
  const Times& times() const { return times_; }

 private:
  std::span<std::uint8_t> silent_rows(const ParameterState& state);

  const StepLayout& layout_;
  const std::uint64_t seed_;
  BeforeChange before_change_;
  std::array<std::unique_ptr<NewtonSchulz>, 2> newton_schulz_;  // f32, bf16
  Buffer direction_;                                            // scratch of the largest tensor
  std::vector<std::uint8_t> silent_rows_;
  Stream stream_;
  std::int64_t step_ = 0;
  int voter_ = 0;
  bool abstains_ = false;
  Times times_;
};

}  // namespace ballot
