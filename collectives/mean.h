// The full-precision mean over workers: for groups that do not vote, and for the baselines.
//
// All-to-all of slices; the owner of a slice adds the contributions in the order of ranks in fp32,
// divides by the number of contributors, rounds once (bf16 wire), and copies the result to all:
// identical everywhere. A contribution that the caller declares absent for a segment (non-finite
// gradient) is left out of its sum and count; with no contributor the mean is 0 and contributors()
// says so. With the bf16 wire every contribution is rounded before it is summed, the owner's own
// too, so the result does not depend on who owns what. One worker sends 2 (W-1)/W x N x 4 (or 2)
// bytes and per message a header of 40 bytes and 1 or 4 bytes a segment. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "collectives/transport/transport.h"
#include "core/tensor.h"  // DType

namespace ballot {

class Mean {
 public:
  // `segments`: lengths in elements of the tensors in the buffer, one after the other. `wire`: f32
  // or bf16.
  Mean(std::vector<std::int64_t> segments, DType wire, Transport& transport);
  ~Mean();

  std::span<float> values();  // the caller writes its contribution here; the mean comes back here
  std::span<std::uint8_t>
  contributes();  // one per segment: 1 = count mine, 0 = leave mine out. Set to 1 by reduce().
  void reduce(Deadline deadline);
  std::span<const std::int32_t> contributors() const;  // one per segment, after reduce()
  double exchange_seconds() const;                     // of the last reduce(): both transfers

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ballot
