#include "launcher/rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "collectives/ballot.h"
#include "collectives/rate_probe.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/parameter_arena.h"
#include "launcher/bench_model.h"
#include "optim/newton_schulz.h"
#include "optim/replicated_update.h"

namespace ballot {
namespace {

struct Key {
  const char* name;
  double unit;
  double& (*value)(Rates&);
};
constexpr std::array kKeys = {
    Key{"compute_gflops", 1e9, [](Rates& r) -> double& { return r.compute; }},
    Key{"newton_schulz_gflops", 1e9, [](Rates& r) -> double& { return r.newton_schulz; }},
    Key{"pack_gelements_per_second", 1e9, [](Rates& r) -> double& { return r.pack; }},
    Key{"apply_gelements_per_second", 1e9, [](Rates& r) -> double& { return r.apply; }},
    Key{"tally_gelements_per_second", 1e9,
        [](Rates& r) -> double& { return r.vote.tally_elements; }},
    Key{"tally_gballots_per_second", 1e9, [](Rates& r) -> double& { return r.vote.tally_ballots; }},
    Key{"checksum_gbytes_per_second", 1e9, [](Rates& r) -> double& { return r.vote.checksum; }},
    Key{"memory_gbytes_per_second", 1e9, [](Rates& r) -> double& { return r.vote.memory; }},
};

// Seconds of one call, the mean of five or more in 0.3 s or more after one that warms up. The mean,
// not the best: where several workers share cores, being interrupted is part of what a worker gets.
template <class Body>
double time_of(const Body& body) {
  constexpr double kLeast = 0.3;
  body();
  Stopwatch watch;
  int calls = 0;
  double elapsed = 0;
  while (calls < 5 || elapsed < kLeast) {
    body();
    ++calls;
    elapsed = watch.elapsed();
  }
  return elapsed / calls;
}

void fill_noise(float* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    values[i] =
        static_cast<float>(static_cast<std::int32_t>(mix64(static_cast<std::uint64_t>(i)))) *
        0x1p-31f;
}

// The hidden matrix with the median number of elements; sides of 1536 at most, a tenth of a second.
ParameterShape middle_matrix(const BenchShapes& shapes) {
  constexpr std::int64_t kLongest = 1536;
  std::vector<ParameterShape> hidden;
  for (const ParameterShape& shape : shapes.voted)
    if (shape.kind == ParameterKind::hidden_matrix && std::min(shape.rows, shape.cols) > 1)
      hidden.push_back(shape);
  if (hidden.empty()) return {"a matrix", ParameterKind::hidden_matrix, 1024, 1024};
  const auto middle = hidden.begin() + static_cast<std::ptrdiff_t>(hidden.size() / 2);
  std::ranges::nth_element(hidden, middle, {},
                           [](const ParameterShape& s) { return s.rows * s.cols; });
  ParameterShape shape = *middle;
  const double scale = std::min(
      1.0, static_cast<double>(kLongest) / static_cast<double>(std::max(shape.rows, shape.cols)));
  shape.rows = std::max<std::int64_t>(1, static_cast<std::int64_t>(scale * shape.rows));
  shape.cols = std::max<std::int64_t>(1, static_cast<std::int64_t>(scale * shape.cols));
  return shape;
}

double measure_newton_schulz(const ParameterShape& shape) {
  Stream stream;
  const OwnedTensor matrix(DType::f32, {shape.rows, shape.cols});
  fill_noise(matrix.view().f32(), shape.rows * shape.cols);
  NewtonSchulz newton_schulz(std::min(shape.rows, shape.cols), shape.rows * shape.cols, DType::f32);
  return newton_schulz_flops(shape.rows, shape.cols) /
         time_of([&] { newton_schulz.orthogonalize(matrix.view(), 5, stream); });
}

// A ballot is packed from, and a verdict applied to, one matrix of 4 Mi elements.
void measure_passes(Rates& rates) {
  constexpr std::int64_t kRows = 1024, kCols = 4096;
  const std::vector<ParameterShape> shapes = {
      {"matrix", ParameterKind::hidden_matrix, kRows, kCols}};
  const ParameterArena arena(shapes, DType::f32);
  const Parameter& parameter = arena.parameters().front();
  BallotSegment segment;
  segment.name = "matrix";
  segment.rows = kRows;
  segment.cols = kCols;
  segment.row_stride = parameter.row_stride;
  const BallotLayout layout({segment});
  Ballot ballot(layout);
  Stream stream;
  fill_noise(parameter.gradient.f32(), parameter.extent());
  const double elements = static_cast<double>(kRows * kCols);
  rates.pack = elements / time_of([&] {
                 cast_ballot(parameter.gradient, layout.segments().front(), {}, {}, ballot, stream);
               });
  Verdict verdict;
  verdict.bits = BitVector(layout.extent());
  verdict.held_blocks = BitVector(layout.blocks());
  std::ranges::copy(ballot.bits().span(), verdict.bits.words());
  rates.apply =
      elements / time_of([&] {
        apply_verdict(verdict, layout.segments().front(), {1e-6f, 1e-6f}, parameter, stream);
      });
}

}  // namespace

double newton_schulz_flops(std::int64_t rows, std::int64_t cols) {
  const double side = static_cast<double>(std::min(rows, cols));
  const double longer = static_cast<double>(std::max(rows, cols));
  return 5 * (4 * side * side * longer + 2 * side * side * side);
}

Rates scaled(Rates rates, double share) {
  for (const Key& key : kKeys) key.value(rates) *= share;
  return rates;
}

Rates rates_by_data_sheet(double compute, double memory) {
  const double bytes = 0.8 * memory;
  Rates rates;
  rates.compute = rates.newton_schulz = compute;
  rates.vote.memory = rates.vote.checksum = bytes;
  rates.pack = bytes / 4;                // reads fp32
  rates.apply = bytes / 8;               // reads and writes fp32
  rates.vote.tally_ballots = bytes * 8;  // reads bits
  rates.vote.tally_elements = bytes * 8;
  return rates;
}

Rates measure_rates(const BenchShapes& shapes, const Measurement& what) {
  Rates rates;
  rates.vote = probe_vote_rates(what.voters);
  measure_passes(rates);
  rates.newton_schulz = measure_newton_schulz(middle_matrix(shapes));
  if (what.model_folder.empty()) {
    rates.compute = measure_matmul(DType::f32, 1024) * 1e9;
  } else {
    ModelBench bench;
    bench.config = what.model_folder;
    bench.batch = what.batch;
    bench.length = what.length;
    bench.warmup_steps = 1;
    bench.steps = 5;
    rates.compute = bench_model(bench).product_gflops * 1e9;
  }
  return rates;
}

std::string to_json(const Rates& rates) {
  Rates copy = rates;
  nlohmann::ordered_json root;
  for (const Key& key : kKeys) root[key.name] = key.value(copy) / key.unit;
  return root.dump();
}

Rates read_rates(const std::string& path) {
  const auto root = nlohmann::json::parse(read_file(path), nullptr, false);
  if (!root.is_object()) throw DataError("{} is not a JSON object of rates", path);
  Rates rates;
  std::string problems;
  for (const Key& key : kKeys) {
    const auto found = root.find(key.name);
    if (found == root.end())
      problems += fmt::format("\n{}: {} is missing", path, key.name);
    else if (!found->is_number() || !(found->get<double>() > 0))
      problems +=
          fmt::format("\n{}: {} is {}, expected a number above 0", path, key.name, found->dump());
    else
      key.value(rates) = found->get<double>() * key.unit;
  }
  for (const auto& [name, value] : root.items())
    if (std::ranges::none_of(kKeys, [&](const Key& key) { return name == key.name; }))
      problems += fmt::format("\n{}: {} is no rate", path, name);
  if (!problems.empty()) throw DataError("rates:{}", problems);
  return rates;
}

}  // namespace ballot
