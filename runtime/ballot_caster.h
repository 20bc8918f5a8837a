// A voter's own part of a step, one tensor at a time as its gradient becomes final:
//
//   voted:     gradient -> finite? -> momentum -> direction (scratch of one matrix) -> ballot
//   averaged:  gradient -> finite? -> clipped contribution to a mean
//
// A tensor whose gradient holds a NaN or infinity is not absorbed: it abstains, or is left out of
// the mean. Knows no network: whoever sends the ballots calls it. One thread at a time.
//
// On a GPU nothing here waits for the device but next(): tensors are given to a stream, behind the
// gradient's, and what the host has to know of them (is the gradient finite, the norm, the bits) is
// fetched behind them and read when it has come. On the CPU it has come at once: the same calls.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "collectives/ballot.h"
#include "core/buffer.h"
#include "core/copy.h"  // PinnedBuffer
#include "core/event.h"
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

  // `gradients`: in whose order the gradient is final. `usable`: false where the loss was not
  // finite. What becomes of the tensor is told by next(), in the order of these calls.
  void cast(ParameterState& state, Stream& gradients, bool usable, Ballot& ballot);
  // Into `values`, the mean's whole buffer, or not.
  void contribute(ParameterState& state, Stream& gradients, bool usable, std::span<float> values);
  // The same into a GPU's memory.
  void contribute(ParameterState& state, Stream& gradients, bool usable, float* device_values);
  struct Made {
    ParameterState* state = nullptr;
    bool finite = false;
    bool counts = false;  // of a mean: was put into its values
  };
  // The first tensor whose ballot or contribution the host has not been told of yet; nothing if
  // there is none, or if it has not come and `wait` is false.
  std::optional<Made> next(bool wait);

  // Both at once, of the CPU only: whether the gradient was finite.
  bool cast_now(ParameterState& state, bool usable, Ballot& ballot);
  // One part of a cut tensor (state.part), by all who hold one of it at once: `usable` is equal for
  // all. `gradient`: of the part. What is not finite in one part is left out in all.
  bool cast_part(ParameterState& state, const Tensor& gradient, bool usable, GramSum& parts,
                 Ballot& ballot);
  struct Times {
    // s, since begin(), sums over parts included. Of a GPU: until the work was given to it, and in
    // `pack` what next() waited.
    double direction = 0, pack = 0;
  };
  const Times& times() const { return times_; }

 private:
  // A tensor that next() has not told of.
  struct Cast {
    Made made;
    bool usable = false;
    bool silent = false;             // says nothing whatever its gradient is
    Ballot* ballot = nullptr;        // null: a contribution
    std::span<float> values{};       // of this tensor
    float* device_values = nullptr;  // or these
  };

  bool on_gpu() const { return stream_.device().kind == Device::Kind::cuda; }
  std::span<std::uint8_t> silent_rows(const ParameterState& state);
  Made contribute_now(ParameterState& state, bool usable, std::span<float> values);
  float clip_factor(const ParameterState& state, double square_sum) const;
  void start_on_gpu(const Cast& cast, Stream& gradients);
  void start_ballot(const Cast& cast, const double* square_sum);
  void end_on_gpu(Cast& cast);

  const StepLayout& layout_;
  const std::uint64_t seed_;
  BeforeChange before_change_;
  std::array<std::unique_ptr<NewtonSchulz>, 2> newton_schulz_;  // f32, bf16
  Buffer direction_;                                            // scratch of the largest tensor
  std::vector<std::uint8_t> silent_rows_;
  std::vector<Cast> under_way_;  // and before told_ what next() has told of
  std::size_t told_ = 0;
  // Of a GPU, by tensor: squares' sums there and here, and when they, and the bits, have come.
  Buffer square_sums_, device_silent_rows_;
  PinnedBuffer arrived_square_sums_;
  std::vector<Event> arrived_;
  Event gradient_;
  Stream stream_;
  std::int64_t step_ = 0;
  int voter_ = 0;
  bool abstains_ = false;
  Times times_;
};

}  // namespace ballot
