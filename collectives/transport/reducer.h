// All-reduce sums done by the network or its library (MPI, NCCL, switches), beside a Transport.
//
// In place: when the transfer is done, every rank's `values` hold the sum of all ranks' values.
// Integers are exact; floating sums have whatever order the library likes, so nothing that keeps
// replicas equal is built on them: they are for benchmarks. How many bytes a rank sends is the
// library's affair; what is counted is 2 (W-1)/W x the bytes of `values`, as a ring would send.
// Transfers are opened and numbered as those of the Transport, but all ranks must also START sums
// in one and the same order: libraries match all-reduces by it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "collectives/transport/transport.h"
#include "core/bfloat16.h"

namespace ballot {

class Reducer {
 public:
  virtual ~Reducer() = default;
  virtual std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<std::uint32_t> values) = 0;
  virtual std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<float> values) = 0;
  virtual std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<bfloat16> values) = 0;
};

}  // namespace ballot
