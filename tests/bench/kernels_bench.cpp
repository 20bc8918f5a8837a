// The kernels of the vote against the memory they stand on: casting, counting, tallying, applying,
// scanning.
//
//   kernels_bench [--mebibytes=256] [--threads=1,2] [--kernels=avx512|avx2|portable]
//                 [--clock=wall|cpu] [Google Benchmark's own flags]
//
// Each one is held against its slow truth first; a difference ends the program. Then the bytes/s of
// what it must read and write, and `share_of_memory`: those bytes over what a plain loop with the
// same numbers of arrays to read and to write moves, measured just before by the same number of
// threads on arrays of the same total size. A plain loop reads, copies, merges arrays or updates
// one in place, and does nothing else. The fastest pass of each is taken, for machines that others
// use too (bytes_per_second is the mean); where others take the processors away, --clock=cpu counts
// only the time of this program's own threads. Tallies and counts also have `share_of_read`: the
// bytes they read, held against reading one array.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "collectives/ballot_reference.h"
#include "collectives/count_planes.h"
#include "collectives/kernels.h"
#include "collectives/tally_reference.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "core/parameter_arena.h"
#include "optim/direction.h"
#include "optim/replicated_update.h"
#include "optim/replicated_update_reference.h"

namespace ballot {
namespace {

std::int64_t working_set_bytes = std::int64_t{256} << 20;
constexpr std::int64_t kCols = 4096;

[[noreturn]] void differ(const std::string& what) {
  fmt::print(stderr, "{}: not what its reference gives\n", what);
  std::exit(1);
}

// ---- time ----

bool cpu_clock = false;

// Seconds that a thread of the team has worked: by the wall, or by the processor time of them all.
double seconds_now() {
  timespec now{};
  clock_gettime(cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  const double seconds = static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  return cpu_clock ? seconds / thread_count() : seconds;
}

// ---- plain loops ----

BALLOT_VECTORIZED std::uint64_t read_words(const std::uint64_t* __restrict x, std::int64_t count) {
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum ^= x[i];
  return sum;
}
BALLOT_VECTORIZED void add_to_all(float* __restrict x, std::int64_t count, float value) {
  for (std::int64_t i = 0; i < count; ++i) x[i] += value;
}
// The same with the upper halves copied beside it.
BALLOT_VECTORIZED void add_and_copy_halves(float* __restrict x, std::uint16_t* __restrict halves,
                                           std::int64_t count, float value) {
  for (std::int64_t i = 0; i < count; ++i) {
    x[i] += value;
    halves[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x[i]) >> 16);
  }
}

// target <- all of the sources together, a page at a time.
BALLOT_VECTORIZED void merge_words(const std::uint64_t* const* sources, int source_count,
                                   std::uint64_t* const* targets, int target_count,
                                   std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kPage = 512;
  std::uint64_t sum[kPage];
  for (; begin < end; begin += kPage) {
    const std::int64_t count = end - begin < kPage ? end - begin : kPage;
    for (int s = 0; s < source_count; ++s) {
      const std::uint64_t* __restrict x = sources[s] + begin;
      if (s == 0)
        for (std::int64_t i = 0; i < count; ++i) sum[i] = x[i];
      else
        for (std::int64_t i = 0; i < count; ++i) sum[i] ^= x[i];
    }
    for (int t = 0; t < target_count; ++t) {
      std::uint64_t* __restrict x = targets[t] + begin;
      for (std::int64_t i = 0; i < count; ++i) x[i] = sum[i];
    }
  }
}

// What a plain loop has to do: arrays it reads, arrays it writes, or one that it changes in place,
// perhaps with a copy of half its size.
struct Plain {
  int reads = 1, writes = 0;
  bool in_place = false, halves = false;
};
constexpr int kMostArrays = 12;

// Bytes per second of the fastest of five passes over the working set.
double plain_bandwidth(Plain plain) {
  static const Buffer memory(static_cast<std::size_t>(working_set_bytes));
  static const Buffer copies(static_cast<std::size_t>(working_set_bytes / 2));
  const int arrays = plain.reads + plain.writes;
  const std::int64_t words = working_set_bytes / 8 / arrays;
  const std::uint64_t* sources[kMostArrays];
  std::uint64_t* targets[kMostArrays];
  for (int a = 0; a < plain.reads; ++a) sources[a] = memory.as<std::uint64_t>() + a * words;
  for (int a = 0; a < plain.writes; ++a)
    targets[a] = memory.as<std::uint64_t>() + (plain.reads + a) * words;
  double best = 0;
  for (int pass = 0; pass < 6; ++pass) {
    const double start = seconds_now();
    parallel_for(words, 4096, [&](std::int64_t begin, std::int64_t end) {
      if (plain.halves)
        add_and_copy_halves(memory.as<float>() + begin * 2, copies.as<std::uint16_t>() + begin * 2,
                            (end - begin) * 2, 1.0f);
      else if (plain.in_place)
        add_to_all(memory.as<float>() + begin * 2, (end - begin) * 2, 1.0f);
      else if (arrays == 1)
        benchmark::DoNotOptimize(read_words(sources[0] + begin, end - begin));
      else
        merge_words(sources, plain.reads, targets, plain.writes, begin, end);
    });
    const double bytes = static_cast<double>(words) * 8 *
                         (plain.halves     ? 2.5
                          : plain.in_place ? 2
                                           : arrays);
    if (pass > 0)
      best = std::max(best, bytes / (seconds_now() - start));  // the first touches the pages
  }
  return best;
}

// Times `work`, which reads and writes so many bytes, and states its share of what a plain loop
// moves.
template <class Work>
void measure(benchmark::State& state, int threads, Plain plain, std::int64_t read,
             std::int64_t written, const Work& work) {
  const int before = thread_count();
  set_thread_count(threads);
  const double bandwidth = plain_bandwidth(plain);
  const double read_bandwidth = plain_bandwidth({});
  work();
  double fastest = std::numeric_limits<double>::infinity();
  for (auto _ : state) {
    const double start = seconds_now();
    work();
    const double passed = seconds_now() - start;
    state.SetIterationTime(passed);
    fastest = std::min(fastest, passed);
  }
  set_thread_count(before);
  const double moved = static_cast<double>(read + written);
  state.SetBytesProcessed((read + written) * state.iterations());
  state.counters["plain_GB/s"] = bandwidth * 1e-9;
  state.counters["share_of_memory"] = moved / fastest / bandwidth;
  if (!plain.in_place)
    state.counters["share_of_read"] = static_cast<double>(read) / fastest / read_bandwidth;
}

// ---- data ----

BallotLayout layout_of(std::int64_t elements) {
  BallotSegment s;
  s.name = "matrix";
  s.rows = std::max<std::int64_t>(1, elements / kCols);
  s.cols = s.row_stride = kCols;
  return BallotLayout({s});
}

Buffer random_floats(std::int64_t count) {
  Buffer buffer(static_cast<std::size_t>(count) * 4);
  float* x = buffer.as<float>();
  for (std::int64_t i = 0; i < count; ++i)
    x[i] =
        (static_cast<float>(mix64(static_cast<std::uint64_t>(i)) >> 40) + 0.5f) * 0x1p-24f - 0.5f;
  return buffer;
}

struct Ballots {
  Ballots(const BallotLayout& layout, int voters) {
    for (int v = 0; v < voters; ++v) {
      ballots.push_back(std::make_unique<Ballot>(layout));
      for (std::int64_t w = 0; w < layout.extent() / 64; ++w)
        ballots.back()->bits().words()[w] =
            hash64(7, static_cast<std::uint64_t>(v), static_cast<std::uint64_t>(w));
      parts.push_back({ballots.back()->bits().words(), ballots.back()->abstentions().words()});
    }
  }
  std::vector<std::unique_ptr<Ballot>> ballots;
  std::vector<BallotPart> parts;
};

struct Result {
  explicit Result(const BallotLayout& layout) : bits(layout.extent()), held(layout.blocks()) {}
  VerdictPart part() { return {bits.words(), held.words(), nullptr}; }
  BitVector bits, held;
  VoteStatistics statistics;
};

void expect_same(const std::string& what, const Result& a, const Result& b, bool with_voters) {
  const VoteStatistics &x = a.statistics, &y = b.statistics;
  if (!std::ranges::equal(a.bits.span(), b.bits.span()) ||
      !std::ranges::equal(a.held.span(), b.held.span()) || x.elements != y.elements ||
      x.ties != y.ties || x.unanimous != y.unanimous || x.held_blocks != y.held_blocks ||
      (with_voters && (x.agreed != y.agreed || x.compared != y.compared)))
    differ(what);
}

// A size at which the slow truth takes no time.
constexpr std::int64_t kVerified = 96 * kCols;

// Reading more arrays at once than this is no other work for the memory.
Plain plain_of(int reads, int writes) {
  return reads > kMostArrays - writes ? Plain{} : Plain{.reads = reads, .writes = writes};
}

// ---- benchmarks ----

Stream cpu;

void cast(benchmark::State& state, int threads) {
  const auto run = [](const BallotLayout& layout, const float* x, Ballot& ballot) {
    const BallotSegment& s = layout.segments()[0];
    // Read only.
    const Tensor direction =
        make_matrix(const_cast<float*>(x), DType::f32, s.rows, s.cols, s.row_stride);
    cast_ballot(direction, s, {.seed = 1, .step = 2, .voter = 3}, {}, ballot, cpu);
  };
  {
    const BallotLayout layout = layout_of(kVerified);
    const Buffer x = random_floats(kVerified);
    for (std::int64_t i = 0; i < kVerified; i += 97) x.as<float>()[i] = 0;
    Ballot fast(layout), slow(layout);
    run(layout, x.as<float>(), fast);
    cast_ballot_reference(x.as<float>(), layout.segments()[0], {.seed = 1, .step = 2, .voter = 3},
                          {}, slow);
    if (!std::ranges::equal(fast.bits().span(), slow.bits().span()) ||
        !std::ranges::equal(fast.abstentions().span(), slow.abstentions().span()))
      differ("cast_ballot");
  }
  const BallotLayout layout = layout_of(working_set_bytes / 4);
  const Buffer x = random_floats(layout.extent());
  Ballot ballot(layout);
  measure(state, threads, {}, layout.extent() * 4, layout.extent() / 8,
          [&] { run(layout, x.as<float>(), ballot); });
}

void scan(benchmark::State& state, int threads) {
  const std::int64_t rows = std::max<std::int64_t>(1, working_set_bytes / 4 / kCols);
  const Buffer x = random_floats(rows * kCols);
  const Tensor gradient = make_matrix(x.data(), DType::f32, rows, kCols, kCols);
  double sum = 0;
  for (std::int64_t i = 0; i < rows * kCols; ++i)
    sum += static_cast<double>(x.as<float>()[i]) * static_cast<double>(x.as<float>()[i]);
  const GradientScan found = scan_gradient(gradient, {}, cpu);
  if (!found.finite || std::abs(found.square_sum - sum) > 1e-9 * sum) differ("scan_gradient");
  measure(state, threads, {}, rows * kCols * 4, 0,
          [&] { benchmark::DoNotOptimize(scan_gradient(gradient, {}, cpu)); });
}

void tally_of(benchmark::State& state, int voters, int threads) {
  const TallyOptions options{.seed = 1, .step = 2};
  const auto run = [&](const BallotLayout& layout, const Ballots& ballots, Result& result) {
    tally(layout, layout.chunk(0, 1), ballots.parts, options, result.part(), result.statistics);
  };
  {
    const BallotLayout layout = layout_of(voters > 64 ? 8 * kCols : kVerified);
    const Ballots ballots(layout, voters);
    Result fast(layout), slow(layout);
    run(layout, ballots, fast);
    tally_reference(layout, layout.chunk(0, 1), ballots.parts, options, slow.part(),
                    slow.statistics);
    expect_same("tally", fast, slow, true);
  }
  const BallotLayout layout = layout_of(working_set_bytes * 8 / voters);
  const Ballots ballots(layout, voters);
  Result result(layout);
  measure(state, threads, plain_of(voters, 1), layout.extent() / 8 * voters, layout.extent() / 8,
          [&] { run(layout, ballots, result); });
}

void count_of(benchmark::State& state, int voters, int threads) {
  const BallotLayout layout = layout_of(working_set_bytes * 8 / voters);
  const Ballots ballots(layout, voters);
  const BallotChunk chunk = layout.chunk(0, 1);
  const Buffer memory(static_cast<std::size_t>(count_words(chunk, voters)) * 8);
  const CountPart part = count_part(memory.as<std::uint64_t>(), chunk, voters);
  const auto run = [&] { count_ballots(layout, chunk, ballots.parts, part); };
  run();
  for (std::int64_t i = 0; i < layout.extent(); i += 1009) {
    std::uint64_t count = 0, expected = 0;
    for (int k = 0; k < count_digits(voters); ++k)
      count |= ((part.planes[k * chunk.word_count() + i / 64] >> (i % 64)) & 1u) << k;
    for (const BallotPart& ballot : ballots.parts)
      expected += (ballot.bits[i / 64] >> (i % 64)) & 1u;
    if (count != expected) differ("count_ballots");
  }
  measure(state, threads, plain_of(voters, count_digits(voters)), layout.extent() / 8 * voters,
          layout.extent() / 8 * count_digits(voters), run);
}

// `nodes` nodes of `voters` voters each.
void tally_counts_of(benchmark::State& state, int nodes, int voters, int threads) {
  const TallyOptions options{.seed = 1, .step = 2};
  struct Nodes {
    Nodes(const BallotLayout& layout, const BallotChunk& chunk, const Ballots& ballots, int nodes,
          int voters) {
      for (int node = 0; node < nodes; ++node) {
        memory.emplace_back(static_cast<std::size_t>(count_words(chunk, voters)) * 8);
        parts.push_back(count_part(memory.back().as<std::uint64_t>(), chunk, voters));
        count_ballots(
            layout, chunk,
            std::span(ballots.parts)
                .subspan(static_cast<std::size_t>(node * voters), static_cast<std::size_t>(voters)),
            parts.back());
      }
    }
    std::vector<Buffer> memory;
    std::vector<CountPart> parts;
  };
  const auto run = [&](const BallotLayout& layout, const Nodes& counts, Result& result,
                       std::uint64_t* sample) {
    tally_counts(layout, layout.chunk(0, 1), counts.parts, options, result.part(),
                 result.statistics, sample);
  };
  {
    const BallotLayout layout = layout_of(kVerified);
    const Ballots ballots(layout, nodes * voters);
    Result fast(layout), slow(layout);
    run(layout, Nodes(layout, layout.chunk(0, 1), ballots, nodes, voters), fast, nullptr);
    tally_reference(layout, layout.chunk(0, 1), ballots.parts, options, slow.part(),
                    slow.statistics);
    expect_same("tally_counts", fast, slow, false);
  }
  const BallotLayout layout = layout_of(working_set_bytes * 8 / (nodes * count_digits(voters)));
  const BallotChunk chunk = layout.chunk(0, 1);
  const std::unique_ptr<Ballots> ballots = std::make_unique<Ballots>(layout, nodes * voters);
  const Nodes counts(layout, chunk, *ballots, nodes, voters);
  Result result(layout);
  std::vector<std::uint64_t> sample(static_cast<std::size_t>(sample_words(chunk)));
  measure(state, threads, plain_of(nodes * count_digits(voters), 1),
          layout.extent() / 8 * nodes * count_digits(voters), layout.extent() / 8,
          [&] { run(layout, counts, result, sample.data()); });
}

// A parameter with a verdict on it.
struct Applied {
  Applied(std::int64_t elements, DType compute)
      : arena(std::vector<ParameterShape>{{"matrix", ParameterKind::hidden_matrix,
                                           std::max<std::int64_t>(1, elements / kCols), kCols}},
              compute),
        layout(layout_of(elements)) {
    verdict.bits = BitVector(layout.extent());
    verdict.held_blocks = BitVector(layout.blocks());
    for (std::int64_t w = 0; w < layout.extent() / 64; ++w)
      verdict.bits.words()[w] = mix64(static_cast<std::uint64_t>(w));
    for (std::int64_t b = 0; b < layout.blocks(); b += 131) verdict.held_blocks.set(b, true);
    for (std::int64_t i = 0; i < layout.extent(); ++i)
      parameter().value.f32()[i] =
          static_cast<float>(mix64(static_cast<std::uint64_t>(i)) >> 40) * 0x1p-24f - 0.5f;
  }
  const Parameter& parameter() const { return arena.parameters()[0]; }
  std::uint64_t run() const {
    return apply_verdict(verdict, layout.segments()[0], factors, parameter(), cpu);
  }
  ParameterArena arena;
  BallotLayout layout;
  Verdict verdict;
  RateFactors factors{3e-5f, 6e-5f};
};

void apply(benchmark::State& state, DType compute, int threads) {
  {
    const Applied small(kVerified, compute);
    std::vector<float> expected(small.parameter().value.f32(),
                                small.parameter().value.f32() + kVerified);
    std::uint64_t digest = 0;
    for (std::int64_t i = 0; i < kVerified; ++i) {
      float& p = expected[static_cast<std::size_t>(i)];
      p = verdict_reference(p, small.verdict.bits.get(i), small.verdict.held_blocks.get(i / 512),
                            small.factors.decay, small.factors.step);
      digest += element_digest(std::bit_cast<std::uint32_t>(p), static_cast<std::uint64_t>(i));
    }
    if (small.run() != digest || std::memcmp(expected.data(), small.parameter().value.f32(),
                                             expected.size() * sizeof(float)) != 0)
      differ("apply_verdict");
  }
  const Applied big(working_set_bytes / 4, compute);
  const std::int64_t extent = big.layout.extent();
  measure(state, threads, {.in_place = true, .halves = compute == DType::bf16},
          extent * 4 + extent / 8, extent * (compute == DType::bf16 ? 6 : 4),
          [&] { benchmark::DoNotOptimize(big.run()); });
}

void decay(benchmark::State& state, int threads) {
  const Applied big(working_set_bytes / 4, DType::f32);
  measure(state, threads, {.in_place = true}, big.layout.extent() * 4, big.layout.extent() * 4,
          [&] { benchmark::DoNotOptimize(apply_decay(big.factors, big.parameter(), cpu)); });
}

template <class... Arguments>
void add(const std::string& name, void (*run)(benchmark::State&, Arguments...),
         Arguments... arguments) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) { run(state, arguments...); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

void add_all(int threads) {
  const std::string team = fmt::format("/threads:{}", threads);
  add("BM_Cast" + team, cast, threads);
  add("BM_Scan" + team, scan, threads);
  for (const int voters : {1, 2, 3, 4, 5, 8, 16, 33, 128, 1024})
    add(fmt::format("BM_Tally/voters:{}", voters) + team, tally_of, voters, threads);
  for (const int voters : {2, 4, 8, 64})
    add(fmt::format("BM_CountBallots/voters:{}", voters) + team, count_of, voters, threads);
  for (const int voters : {4, 8})
    add(fmt::format("BM_TallyCounts/nodes:4/voters:{}", voters) + team, tally_counts_of, 4, voters,
        threads);
  add("BM_Apply/compute:f32" + team, apply, DType::f32, threads);
  add("BM_Apply/compute:bf16" + team, apply, DType::bf16, threads);
  add("BM_Decay" + team, decay, threads);
}

// Takes `--name=value` out of the arguments.
std::string take_flag(int& argc, char** argv, const std::string& name,
                      const std::string& otherwise) {
  std::string value = otherwise;
  int kept = 0;
  for (int i = 0; i < argc; ++i) {
    const std::string argument = argv[i], start = "--" + name + "=";
    if (argument.starts_with(start))
      value = argument.substr(start.size());
    else
      argv[kept++] = argv[i];
  }
  argc = kept;
  return value;
}

void choose(const std::string& name) {
  std::string known;
  for (std::size_t i = 0; i < kernel_versions(); ++i) {
    if (name.empty() || kernel_version(i).name == name) return choose_kernels(kernel_version(i));
    known += fmt::format(" {}", kernel_version(i).name);
  }
  fmt::print(stderr, "--kernels={}: this processor runs{}\n", name, known);
  std::exit(1);
}

}  // namespace
}  // namespace ballot

int main(int argc, char** argv) {
  using namespace ballot;
  const std::string mebibytes = take_flag(argc, argv, "mebibytes", "256");
  const std::string teams = take_flag(argc, argv, "threads", "1,2");
  choose(take_flag(argc, argv, "kernels", ""));
  const std::string clock = take_flag(argc, argv, "clock", "wall");
  if (clock != "wall" && clock != "cpu") {
    fmt::print(stderr, "--clock={}: expected wall or cpu\n", clock);
    return 1;
  }
  cpu_clock = clock == "cpu";
  working_set_bytes = std::int64_t{std::stoi(mebibytes)} << 20;
  for (std::size_t at = 0; at < teams.size(); at = std::min(teams.size(), teams.find(',', at)) + 1)
    add_all(std::stoi(teams.substr(at)));
  benchmark::AddCustomContext("kernels", kernels().name);
  benchmark::AddCustomContext("clock", clock);
  benchmark::AddCustomContext("working_set_MiB", mebibytes);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
