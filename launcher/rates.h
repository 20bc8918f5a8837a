// How fast one worker is at everything a step does besides the wire: measured, from a file, or from
// two figures of a data sheet.
#pragma once

#include <cstdint>
#include <string>

#include "collectives/cost_model.h"  // VoteRates
#include "launcher/bench_shapes.h"

namespace ballot {

struct Rates {
  VoteRates vote;            // tally, checksum, memory
  double compute = 0;        // flop/s of products in forward and backward
  double newton_schulz = 0;  // flop/s of its products
  double pack = 0;           // elements/s: direction -> ballot
  double apply = 0;          // elements/s: verdict -> parameters
};

// Products of five iterations on a (rows, cols) matrix, s <= l its sides: Gram matrix 2 s^2 l, its
// square 2 s^3, update 2 s^2 l, each iteration. (The products are not told that the first two are
// symmetric.)
double newton_schulz_flops(std::int64_t rows, std::int64_t cols);

// What every worker gets of it, where several share the machine that was measured.
Rates scaled(Rates rates, double share);

// Every pass at 80 % of the memory's bandwidth (bytes/s), Newton-Schulz at the rate of the other
// products (flop/s): what the kernels aim at, not what anybody measured.
Rates rates_by_data_sheet(double compute, double memory);

// On this machine with this thread's team: a few seconds. `voters` of the vote in question. Where
// `model_folder` is given, forward and backward of that model with batches of `batch` sequences of
// `length`; else one square product.
struct Measurement {
  int voters = 4;
  std::string model_folder;
  std::int64_t batch = 1, length = 256;
};
Rates measure_rates(const BenchShapes& shapes, const Measurement& what);

// {"compute_gflops": .., ...}; names carry units. DataError names the file and the key.
std::string to_json(const Rates& rates);
Rates read_rates(const std::string& path);

}  // namespace ballot
