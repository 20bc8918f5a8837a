// The ring all-reduce, for comparison with the vote on the same wire (Patarasuk, Yuan 2009; what
// NCCL and Open MPI do for large buffers).
//
// Every rank owns one of W slices. W-1 times each rank sends a slice to its right neighbour and
// adds what comes from the left; then the finished slices go around once more. One worker sends 2
// (W-1)/W x the bytes of `values` in 2(W-1) hops, to its neighbour only. A slice travels in pieces:
// while one is added, others are on the wire. Sums are fp32 or, with bf16, rounded at every hop.
// Slice j is the sum in the order of ranks j, j+1, .., j-1: another order for each slice, so it is
// no base for what must not depend on W's order. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "collectives/transport/transport.h"
#include "core/bfloat16.h"

namespace ballot {

class RingAllReduce {
 public:
  // In place: `values` (equally many on every rank) must outlive it. `piece_bytes` 0: 1 MiB, more
  // for slices of more than 64 MiB.
  RingAllReduce(std::span<float> values, Transport& transport, std::size_t piece_bytes = 0);
  RingAllReduce(std::span<bfloat16> values, Transport& transport, std::size_t piece_bytes = 0);
  ~RingAllReduce();

  // Every rank's `values` become the sum. Timeout names the ranks waited for; after any error the
  // transport is of no more use.
  void reduce(Deadline deadline);

 private:
  struct State;
  template <class T>
  struct StateOf;
  std::unique_ptr<State> state_;
};

}  // namespace ballot
