#include "launcher/bench_means.h"

#include <algorithm>
#include <functional>
#include <memory>

#include "collectives/mean.h"
#include "collectives/ring_all_reduce.h"
#include "collectives/transport/reducer.h"
#include "core/buffer.h"
#include "core/error.h"
#include "core/parallel.h"
#include "launcher/interface_counters.h"
#include "launcher/rank_numbers.h"

namespace ballot {
namespace {

constexpr std::int64_t kGrain = 65536;
constexpr std::int64_t kCheckBudget = std::int64_t{1} << 29;  // values made again, a rank
constexpr int kMostRanks = 256;  // whole numbers up to 256 are exact in bf16

// Rank r's element i: a whole number in [-limit, limit].
float value_of(int rank, std::int64_t i, int limit) {
  std::uint32_t x = static_cast<std::uint32_t>(i) * 0x9e3779b1u +
                    static_cast<std::uint32_t>(rank + 1) * 0x85ebca6bu;
  x = (x ^ (x >> 15)) * 0x2c1b3c6du;
  x ^= x >> 13;
  return static_cast<float>(static_cast<int>(x % static_cast<std::uint32_t>(2 * limit + 1)) -
                            limit);
}

// One way to reduce: values in, sum or mean out.
struct Way {
  std::function<void(std::int64_t step)> begin = [](std::int64_t) {};
  std::function<void(std::int64_t, float)> set;
  std::function<float(std::int64_t)> get;
  std::function<void(Deadline)> reduce;
  bool divides = false;  // the result is the mean
};

}  // namespace

const char* to_string(MeanKind kind) {
  switch (kind) {
    case MeanKind::ours:
      return "ours";
    case MeanKind::ring:
      return "ring";
    case MeanKind::library:
      return "library";
  }
  return "?";
}

MeanResult bench_mean(Transport& transport, MeanKind kind, DType wire, const MeanBench& bench,
                      const std::string& interface_name) {
  const int ranks = transport.size();
  if (ranks > kMostRanks)
    throw ConfigError("{} workers: sums are compared exactly for up to {}", ranks, kMostRanks);
  MeanResult result;
  result.kind = kind;
  result.wire = wire;
  result.elements = bench.elements;
  result.counted = kind != MeanKind::library;
  result.formula = 2.0 * (ranks - 1) / ranks * static_cast<double>(bench.elements) *
                   static_cast<double>(size_bytes(wire));
  const std::size_t count = static_cast<std::size_t>(bench.elements);

  // What is used of these lives until the end.
  std::unique_ptr<Mean> mean;
  Buffer buffer;
  std::unique_ptr<RingAllReduce> ring;
  std::unique_ptr<Transfer> sum;
  Way way;
  if (kind == MeanKind::ours) {
    mean = std::make_unique<Mean>(std::vector<std::int64_t>{bench.elements}, wire, transport);
    float* values = mean->values().data();
    way.set = [values](std::int64_t i, float x) { values[i] = x; };
    way.get = [values](std::int64_t i) { return values[i]; };
    way.begin = [&](std::int64_t step) { mean->begin(step); };
    way.reduce = [&](Deadline deadline) { mean->reduce(deadline); };
    result.formula = static_cast<double>(mean->cost().total());
    way.divides = true;
  } else {
    buffer = Buffer(count * size_bytes(wire));
    if (wire == DType::f32) {
      float* values = buffer.as<float>();
      way.set = [values](std::int64_t i, float x) { values[i] = x; };
      way.get = [values](std::int64_t i) { return values[i]; };
    } else {
      bfloat16* values = buffer.as<bfloat16>();
      way.set = [values](std::int64_t i, float x) { values[i] = to_bfloat16(x); };
      way.get = [values](std::int64_t i) { return to_float(values[i]); };
    }
    const auto open = [&](const auto& make) {
      if (wire == DType::f32)
        make(buffer.span<float>());
      else
        make(buffer.span<bfloat16>());
    };
    if (kind == MeanKind::ring) {
      open([&](auto values) { ring = std::make_unique<RingAllReduce>(values, transport); });
      way.reduce = [&](Deadline deadline) { ring->reduce(deadline); };
    } else {
      Reducer* reducer = transport.reducer();
      result.available = reducer != nullptr;
      if (!result.available) return result;
      open([&](auto values) { sum = reducer->open_sum(Purpose::mean, values); });
      way.reduce = [&](Deadline deadline) {
        sum->start();
        sum->wait(deadline);
      };
    }
  }

  const int limit = ranks <= 36 ? 7 : 1;
  const std::int64_t every = std::max<std::int64_t>(1, bench.elements * ranks / kCheckBudget);
  result.checked = (bench.elements + every - 1) / every;
  std::vector<double> seconds;
  double wrong = -1;
  const Traffic traffic_before = transport.traffic();
  double kernel = 0;
  bool kernel_known = true;
  for (int repeat = 0; repeat < bench.repeats; ++repeat) {
    way.begin(repeat);
    parallel_for(bench.elements, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) way.set(i, value_of(transport.rank(), i, limit));
    });
    const Deadline deadline = Deadline::in(bench.patience);
    transport.barrier(deadline);
    const InterfaceCounters before = read_interface(interface_name);
    Stopwatch watch;
    way.reduce(deadline);
    seconds.push_back(watch.elapsed());
    transport.barrier(deadline);
    const InterfaceCounters after = read_interface(interface_name);
    kernel_known = kernel_known && before.known && after.known;
    kernel += static_cast<double>(after.sent - before.sent);
    if (repeat > 0) continue;
    for (std::int64_t i = 0; i < bench.elements && wrong < 0; i += every) {
      float expected = 0;
      for (int r = 0; r < ranks; ++r) expected += value_of(r, i, limit);
      if (way.divides) expected /= static_cast<float>(ranks);
      if (wire == DType::bf16) expected = to_float(to_bfloat16(expected));
      if (way.get(i) != expected) wrong = static_cast<double>(i);
    }
  }
  const Traffic traffic = transport.traffic() - traffic_before;
  const std::size_t purpose = static_cast<std::size_t>(Purpose::mean);
  std::vector<double> mine = {wrong, static_cast<double>(traffic.bytes_sent[purpose]),
                              static_cast<double>(traffic.bytes_received[purpose]),
                              kernel_known ? kernel : -1, result.formula};
  mine.insert(mine.end(), seconds.begin(), seconds.end());
  const auto all = gather_numbers(transport, mine, Deadline::in(bench.patience));
  result.seconds.assign(seconds.size(), 0);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank][0] >= 0)
      throw TransportError("{} all-reduce ({}): rank {} has a wrong sum at element {:.0f}",
                           to_string(wire), to_string(kind), rank, all[rank][0]);
    result.bytes_sent = std::max(result.bytes_sent, all[rank][1] / bench.repeats);
    result.bytes_received = std::max(result.bytes_received, all[rank][2] / bench.repeats);
    result.kernel_sent = std::max(result.kernel_sent, all[rank][3] / bench.repeats);
    result.formula = std::max(result.formula, all[rank][4]);
    for (std::size_t i = 0; i < seconds.size(); ++i)
      result.seconds[i] = std::max(result.seconds[i], all[rank][5 + i]);
  }
  if (!kernel_known) result.kernel_sent = -1;
  if (!result.counted) result.bytes_sent = result.bytes_received = result.formula;
  return result;
}

}  // namespace ballot
