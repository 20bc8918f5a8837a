// All-reduces of floats beside a vote: ours (collectives/mean.h), a ring, and the transport
// library's own, verified and then timed.
//
// Values are whole numbers so small that every partial sum is exact in the wire's type: the result
// does not depend on the order of the sum and is compared element by element.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "core/tensor.h"  // DType

namespace ballot {

enum class MeanKind { ours, ring, library };
const char* to_string(MeanKind kind);

struct MeanResult {
  MeanKind kind = MeanKind::ours;
  DType wire = DType::f32;
  bool available = true;        // the transport's library has one
  std::int64_t elements = 0;    // reduced
  std::int64_t checked = 0;     // of them, on every rank
  std::vector<double> seconds;  // by repeat, the slowest rank's
  double bytes_sent = 0;        // by one reduce, the rank that sends most
  double bytes_received = 0;
  bool counted = true;     // the bytes are ours to count; else by the formula
  double formula = 0;      // ours: Mean::cost(); others: 2 (W-1)/W x the elements' bytes
  double kernel_sent = 0;  // by one reduce, what the busiest rank's interface says; -1: not known
};

struct MeanBench {
  std::int64_t elements = 0;
  int repeats = 1;
  Duration patience = std::chrono::seconds(120);  // for one reduce
};

// Collective. TransportError names rank and element where a sum is wrong.
MeanResult bench_mean(Transport& transport, MeanKind kind, DType wire, const MeanBench& bench,
                      const std::string& interface_name);

}  // namespace ballot
