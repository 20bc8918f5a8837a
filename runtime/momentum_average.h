// Now and then all voters take the mean of their momenta: M_v <- (M_1 + ... + M_V) / V.
//
// Voters that see different samples hold different momenta, and a majority of their signs is not
// the sign of their mean (Ishikawa et al. 2024, arXiv:2411.16462, average selected layers for
// that). Contributions travel as bf16 and are summed in fp32, so every voter gets the same bits; a
// step in which this happens sends 4 (V-1)/V bytes per voted parameter more. Memory: one piece of 4
// Mi elements. Off by default (docs/learning.md has what it was worth). Collective, one thread.
#pragma once

#include <cstdint>
#include <memory>

#include "collectives/mean.h"
#include "core/clock.h"
#include "runtime/before_change.h"
#include "runtime/optimizer_state.h"

namespace ballot {

class MomentumAverage {
 public:
  // Both must outlive it. Every worker is a voter.
  MomentumAverage(OptimizerState& state, Transport& transport,
                  std::int64_t piece_elements = std::int64_t{1} << 22);
  ~MomentumAverage();
  void before_change(BeforeChange call) { before_change_ = std::move(call); }
  // Of all private momenta, after step `step`. PeerLost, Timeout.
  void average(std::int64_t step, Deadline deadline);

 private:
  template <class Body>
  void for_each_stretch(std::int64_t begin, std::int64_t end, const Body& body);
  OptimizerState& state_;
  BeforeChange before_change_;
  std::int64_t total_ = 0, piece_ = 0;  // elements
  std::unique_ptr<Mean> mean_;          // of a piece; none: nothing is private
};

}  // namespace ballot
