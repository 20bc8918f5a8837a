// Where each tensor lies in a step's verdict and means: a pure function of the parameters and their
// groups, the same on every worker and wherever a journal is replayed.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "collectives/ballot_layout.h"
#include "runtime/optimizer_state.h"

namespace ballot {

// f32 is 0, bf16 is 1: two means, one for each type on the wire.
inline constexpr std::size_t wire_index(DType type) {
  return type == DType::f32 ? 0 : 1;
}

class StepLayout {
 public:
  // `state` and what it points to must outlive it.
  explicit StepLayout(const OptimizerState& state);

  const BallotLayout& voted() const { return voted_; }
  // Sign rules on a mean: a ballot whose only voter is the mean itself.
  const BallotLayout& alone() const { return alone_; }
  // Elements of each tensor in a mean's buffer, padding columns included, one after the other.
  const std::vector<std::int64_t>& mean_lengths(std::size_t wire) const {
    return mean_lengths_[wire];
  }
  std::int64_t mean_extent(std::size_t wire) const { return mean_extents_[wire]; }
  std::int64_t mean_bytes() const { return 4 * (mean_extents_[0] + mean_extents_[1]); }

  // Of one tensor; -1 where it has none.
  struct Place {
    std::int64_t segment = -1;       // in voted(), or in alone() if it is not voted on
    std::int64_t mean_segment = -1;  // in its mean's lengths
    std::int64_t mean_offset = -1;   // in its mean's buffer
    std::size_t wire = 0;            // of its mean
  };
  const Place& place(const ParameterState& state) const {
    return places_[static_cast<std::size_t>(state.parameter->index)];
  }
  const BallotSegment& segment(const ParameterState& state) const;

 private:
  BallotLayout voted_, alone_;
  std::array<std::vector<std::int64_t>, 2> mean_lengths_;
  std::array<std::int64_t, 2> mean_extents_{};
  std::vector<Place> places_;  // by parameter
};

// The matrix itself, without the padding columns that the owner's shape includes.
Tensor trimmed(const OwnedTensor& owned, const Parameter& parameter);
// Memory of at least extent() elements on `device`, as a matrix that lies like the parameter.
Tensor shaped_as(const Parameter& parameter, float* data, Device device);

}  // namespace ballot
