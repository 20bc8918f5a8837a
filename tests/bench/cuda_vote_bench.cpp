// The optimizer's and the vote's kernels on a GPU: compared with the CPU first, then timed.
//
//   cuda_vote_bench [--elements=N]
//
// Prints for each kernel its time, its bytes per second (the bytes it must move, as its file says)
// and their share of a copy on the device in the same run and of 3.35 TB/s, the H100's memory.
// Without --elements: 64 Mi and 1 Gi elements, and Newton-Schulz at the sizes of real models.
// Leaves with 1 where something differs from the CPU, with 77 where there is no GPU.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "collectives/ballot.h"
#include "collectives/cuda_mean.h"
#include "collectives/device_tally.h"
#include "core/clock.h"
#include "core/copy.h"
#include "core/cuda/cuda_core.h"
#include "core/cuda_backend.h"
#include "core/error.h"
#include "core/parameter_arena.h"
#include "optim/cuda_optim.h"
#include "optim/direction.h"
#include "optim/newton_schulz.h"
#include "optim/replicated_update.h"
#include "optim/square_sum.h"

namespace ballot {
namespace {

constexpr double kPeak = 3.35e12;  // bytes per second
constexpr std::int64_t kCols = 4096;

bool differs = false;

void require_equal(bool equal, const std::string& what) {
  if (equal) return;
  differs = true;
  fmt::print("DIFFERS from the CPU: {}\n", what);
}

std::vector<float> random_floats(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& e : x) e = normal(random);
  return x;
}

// ---- verification ----

template <class T>
bool same(const T* host, const Tensor& device, Stream& stream) {
  const std::size_t bytes = static_cast<std::size_t>(device.count()) * size_bytes(device.type);
  std::vector<std::byte> found(bytes);
  stream.synchronize();
  copy_bytes(found.data(), {}, device.data, device.device, bytes, stream);
  stream.synchronize();
  return std::memcmp(found.data(), host, bytes) == 0;
}

BallotLayout layout_of(std::int64_t elements) {
  BallotSegment s;
  s.name = "matrix";
  s.rows = elements / kCols;
  s.cols = s.row_stride = kCols;
  return BallotLayout({s});
}

void verify(Device device, std::int64_t elements) {
  Stream cpu, stream(device);
  const std::int64_t rows = elements / kCols;
  const std::vector<ParameterShape> shapes{{"matrix", ParameterKind::hidden_matrix, rows, kCols}};
  const ParameterArena host(shapes, DType::bf16), gpu(shapes, DType::bf16, device);
  const Parameter &p = host.parameters()[0], &q = gpu.parameters()[0];
  const OwnedTensor m(DType::f32, {rows, kCols}), u(DType::f32, {rows, kCols});
  const OwnedTensor gpu_m(DType::f32, {rows, kCols}, device),
      gpu_u(DType::f32, {rows, kCols}, device);
  const std::vector<float> values = random_floats(elements, 1),
                           gradient = random_floats(elements, 2);
  std::memcpy(p.value.data, values.data(), values.size() * 4);
  std::memcpy(p.gradient.data, gradient.data(), gradient.size() * 4);
  for (std::int64_t i = 0; i < elements; i += 97) p.gradient.f32()[i] = 0;
  copy(p.value, q.value, stream);
  copy(p.gradient, q.gradient, stream);

  require_equal(scan_gradient(q.gradient, {}, stream).square_sum ==
                    scan_gradient(p.gradient, {}, cpu).square_sum,
                "square sum");
  ParameterGroup group = default_group(Rule::olion);
  group.newton_schulz = false;
  find_direction(group, p.gradient, m, u, nullptr, cpu);
  find_direction(group, q.gradient, gpu_m, gpu_u, nullptr, stream);
  require_equal(same(m.view().data, gpu_m, stream) && same(u.view().data, gpu_u, stream),
                "momentum");

  const BallotLayout layout = layout_of(elements);
  const BallotSegment& s = layout.segments()[0];
  Ballot ballot(layout), gpu_ballot(layout, gpu_u.view().device);
  for (const double below : {0.0, 1.5}) {
    const CastOptions options{.seed = 1, .step = 2, .voter = 3, .abstain_below = below};
    const bool counted = cast_ballot(u, s, options, {}, ballot, cpu) ==
                         cast_ballot(gpu_u, s, options, {}, gpu_ballot, stream);
    require_equal(
        counted && std::ranges::equal(ballot.bits().span(), gpu_ballot.bits().span()) &&
            std::ranges::equal(ballot.abstentions().span(), gpu_ballot.abstentions().span()),
        fmt::format("ballot, abstaining below {}", below));
  }

  Verdict verdict;
  verdict.bits = BitVector(layout.extent());
  verdict.held_blocks = BitVector(layout.blocks());
  std::ranges::copy(ballot.bits().span(), verdict.bits.words());
  for (std::int64_t b = 0; b < layout.blocks(); b += 31) verdict.held_blocks.set(b, true);
  const RateFactors factors{3e-5f, 6e-5f};
  bool equal =
      apply_verdict(verdict, s, factors, p, cpu) == apply_verdict(verdict, s, factors, q, stream);
  equal &= apply_direction(u, factors, p, cpu) == apply_direction(gpu_u, factors, q, stream);
  const OwnedTensor v(DType::f32, {rows, kCols}), gpu_v(DType::f32, {rows, kCols}, device);
  equal &= apply_adamw(default_group(Rule::adamw), p.gradient, 1, factors, m, v, p, cpu) ==
           apply_adamw(default_group(Rule::adamw), q.gradient, 1, factors, gpu_m, gpu_v, q, stream);
  equal &= apply_decay(factors, p, cpu) == apply_decay(factors, q, stream);
  require_equal(
      equal && same(p.value.data, q.value, stream) && same(p.compute.data, q.compute, stream),
      "updates");
}

// Ballots in one piece of device memory, random, nobody abstaining.
struct Ballots {
  Ballots(const BallotLayout& layout, int voters, Device device, std::span<const std::byte> random,
          Stream& stream)
      : words(layout.extent() / 64), block_words((layout.blocks() + 63) / 64) {
    const std::int64_t each = words + block_words;
    memory = Buffer(static_cast<std::size_t>(each * voters) * 8, device);
    const std::size_t first = std::min(memory.size_bytes(), random.size());
    copy_bytes(memory.data(), device, random.data(), {}, first, stream);
    for (std::size_t done = first; done < memory.size_bytes();) {
      const std::size_t bytes = std::min(done, memory.size_bytes() - done);
      copy_bytes(memory.data() + done, device, memory.data(), device, bytes, stream);
      done += bytes;
    }
    auto* const all = memory.as<std::uint64_t>();
    for (int v = 0; v < voters; ++v) {
      fill_zero(all + v * each + words, static_cast<std::size_t>(block_words) * 8, stream);
      parts.push_back({all + v * each, all + v * each + words});
    }
    stream.synchronize();
  }
  std::int64_t words, block_words;
  Buffer memory;
  std::vector<BallotPart> parts;
};

void verify_tally(Device device, int voters, std::int64_t elements,
                  std::span<const std::byte> random) {
  Stream stream(device);
  const BallotLayout layout = layout_of(elements);
  const BallotChunk chunk = layout.chunk(0, 1);
  const Ballots ballots(layout, voters, device, random, stream);
  std::vector<std::uint64_t> host(ballots.memory.size_bytes() / 8);
  copy_bytes(host.data(), {}, ballots.memory.data(), device, host.size() * 8, stream);
  stream.synchronize();
  std::vector<BallotPart> parts;
  for (const BallotPart& part : ballots.parts) {
    const std::uint64_t* bits = host.data() + (part.bits - ballots.memory.as<std::uint64_t>());
    parts.push_back({bits, bits + ballots.words});
  }
  BitVector bits(layout.extent()), blocks(layout.blocks());
  VoteStatistics expected, found;
  tally(layout, chunk, parts, {.seed = 1}, {bits.words(), blocks.words(), nullptr}, expected);
  const OwnedTensor gpu_bits(DType::f32, {layout.extent() / 32}, device);
  const Buffer gpu_blocks(static_cast<std::size_t>(ballots.block_words) * 8, device);
  DeviceTally tally(layout, chunk, voters, device);
  tally.count(ballots.parts, {.seed = 1},
              {reinterpret_cast<std::uint64_t*>(gpu_bits.view().data),
               gpu_blocks.as<std::uint64_t>(), nullptr},
              stream);
  tally.statistics(found, stream);
  require_equal(same(bits.words(), gpu_bits, stream) && found.ties == expected.ties &&
                    found.unanimous == expected.unanimous && found.agreed == expected.agreed &&
                    found.compared == expected.compared,
                fmt::format("tally of {}", voters));
}

// ---- timing ----

double copy_rate = 0;  // bytes per second, read and written

// Seconds of one call, of many given one after the other.
double time_of(Stream& stream, const std::function<void()>& call) {
  call();
  stream.synchronize();
  double best = 1e9;
  for (int trial = 0; trial < 3; ++trial) {
    Stopwatch watch;
    int calls = 0;
    do {
      for (int i = 0; i < 4; ++i, ++calls) call();
      stream.synchronize();
    } while (watch.elapsed() < 0.03);
    best = std::min(best, watch.elapsed() / calls);
  }
  return best;
}

void report(const std::string& name, std::int64_t elements, double bytes, double seconds) {
  const double rate = bytes / seconds;
  fmt::print("{:<34} {:>6} Mi {:>10.4f} ms {:>8.0f} GB/s {:>6.1f} % of a copy {:>6.1f} % of peak\n",
             name, elements >> 20, seconds * 1e3, rate * 1e-9, 100 * rate / copy_rate,
             100 * rate / kPeak);
}

// Device memory filled with what the host gives, again and again.
Buffer filled(std::size_t bytes, Device device, std::span<const std::byte> with, Stream& stream) {
  Buffer memory(bytes, device);
  const std::size_t first = std::min(bytes, with.size());
  copy_bytes(memory.data(), device, with.data(), {}, first, stream);
  for (std::size_t done = first; done < bytes;) {
    const std::size_t more = std::min(done, bytes - done);
    copy_bytes(memory.data() + done, device, memory.data(), device, more, stream);
    done += more;
  }
  stream.synchronize();
  return memory;
}

void time_elements(Device device, std::int64_t elements, std::span<const float> pattern) {
  Stream stream(device);
  const std::int64_t rows = elements / kCols;
  const double n = static_cast<double>(rows * kCols);
  const auto bytes = static_cast<std::size_t>(rows * kCols) * 4;
  const auto values = std::as_bytes(pattern);
  const std::vector<ParameterShape> shapes{{"matrix", ParameterKind::hidden_matrix, rows, kCols}};
  Parameter p;
  p.shape = shapes[0];
  p.row_stride = kCols;
  const Buffer value = filled(bytes, device, values, stream);
  const Buffer gradient = filled(bytes, device, values, stream);
  const Buffer momentum = filled(bytes, device, values, stream);
  const Buffer direction = filled(bytes, device, values, stream);
  const Buffer rounded(bytes / 2, device), scratch(static_cast<std::size_t>(rows + 2) * 8, device);
  const auto matrix = [&](const Buffer& of, DType type) {
    return make_matrix(of.data(), type, rows, kCols, kCols, device);
  };
  p.value = matrix(value, DType::f32);
  p.gradient = matrix(gradient, DType::f32);
  p.compute = p.value;
  Parameter p16 = p;
  p16.compute = matrix(rounded, DType::bf16);
  auto* const g = gradient.as<float>();
  auto* const u = direction.as<float>();
  auto* const sums = scratch.as<double>();
  auto* const digest = scratch.as<std::uint64_t>();
  CudaOptim& optim = cuda_optim();

  copy_rate = 2 * n * 4 / time_of(stream, [&] {
                cuda_core().copy_on_device(direction.data(), gradient.data(), bytes, stream);
              });
  report("copy on the device", elements, 8 * n, 8 * n / copy_rate);
  report("square sum", elements, 4 * n,
         time_of(stream, [&] { optim.square_sum(p.gradient, sums, sums + 1, nullptr, stream); }));
  const MomentumWeights weights{0.98f, 0.02f, 0.05f, 0.95f, false};
  report("momentum f32, direction", elements, 16 * n, time_of(stream, [&] {
           optim.absorb(weights, rows * kCols, g, matrix(momentum, DType::f32), u, nullptr, stream);
         }));
  report("momentum bf16, direction", elements, 12 * n, time_of(stream, [&] {
           optim.absorb(weights, rows * kCols, g, matrix(rounded, DType::bf16), u, nullptr, stream);
         }));
  // What one pass spares is the difference to the two: momentum and direction, square sum.
  for (const DType type : {DType::f32, DType::bf16})
    report(type == DType::f32 ? "momentum f32, direction, squares"
                              : "momentum bf16, direction, squares",
           elements, (type == DType::f32 ? 16 : 12) * n, time_of(stream, [&] {
             optim.absorb_and_sum(weights, p.gradient,
                                  matrix(type == DType::f32 ? momentum : rounded, type),
                                  matrix(direction, DType::f32), nullptr, sums, sums + 1, stream);
           }));
  report("contribution clipped", elements, 8 * n,
         time_of(stream, [&] { cuda_mean().clip(g, rows * kCols, sums, 1.0, u, stream); }));
  report("scale f32 -> bf16", elements, 6 * n, time_of(stream, [&] {
           optim.normalize(p.gradient, matrix(rounded, DType::bf16), sums,
                           normalization_of(Coefficients::keller), stream);
         }));

  const auto words = static_cast<std::size_t>(rows * kCols / 64);
  const Buffer bits(words * 8, device), blocks((words / 8 + 63) / 64 * 8, device);
  const PackSigns pack{.direction = g,
                       .rows = rows,
                       .cols = kCols,
                       .row_stride = kCols,
                       .block = 512,
                       .arena_word = 0,
                       .coin_stream = 1,
                       .threshold = nullptr,
                       .silent_rows = nullptr,
                       .gate = nullptr,
                       .bits = bits.as<std::uint64_t>(),
                       .abstentions = blocks.as<std::uint64_t>()};
  report("pack signs", elements, 4.125 * n,
         time_of(stream, [&] { cuda_vote().pack_signs(pack, stream); }));
  report("find the RMS", elements, 4 * n, time_of(stream, [&] {
           cuda_vote().find_threshold(p.gradient, 1.0, sums + 1, reinterpret_cast<float*>(sums),
                                      stream);
         }));

  const DeviceVerdict verdict{.negative = bits.as<std::uint64_t>(),
                              .held_elements = nullptr,
                              .held_blocks = blocks.as<std::uint64_t>(),
                              .first_block = 0,
                              .block = 512,
                              .decay = 1e-6f,
                              .step = 1e-6f};
  report("apply verdict", elements, 8.125 * n,
         time_of(stream, [&] { optim.apply_verdict(verdict, p, digest, stream); }));
  report("apply verdict, bf16 copy", elements, 10.125 * n,
         time_of(stream, [&] { optim.apply_verdict(verdict, p16, digest, stream); }));
  report("apply direction", elements, 12 * n,
         time_of(stream, [&] { optim.apply_direction(g, 1e-6f, 1e-6f, p, digest, stream); }));
  const AdamFactors adam{0.9f, 0.1f, 0.95f, 0.05f, 1e-6f, 1.0f, 1e-8f, 1e-6f};
  report("apply AdamW", elements, 28 * n, time_of(stream, [&] {
           optim.apply_adamw(adam, g, momentum.as<float>(), u, p, digest, stream);
         }));
  report("decay", elements, 8 * n,
         time_of(stream, [&] { optim.apply_decay(1e-6f, p, digest, stream); }));
  report("digest", elements, 4 * n,
         time_of(stream, [&] { optim.apply_decay(0, p, digest, stream); }));
  if (elements > std::int64_t{64} << 20) return;

  // What a step waits for: the same with the copies to and from the host's ballot and verdict.
  const BallotLayout layout = layout_of(elements);
  Ballot ballot(layout, device);
  report("cast_ballot(), to the host", elements, 4.125 * n, time_of(stream, [&] {
           cast_ballot(p.gradient, layout.segments()[0], {}, {}, ballot, stream);
         }));
  Verdict of_host;
  of_host.bits = BitVector(layout.extent());
  of_host.held_blocks = BitVector(layout.blocks());
  report("apply_verdict(), from the host", elements, 8.125 * n, time_of(stream, [&] {
           apply_verdict(of_host, layout.segments()[0], {1e-6f, 1e-6f}, p, stream);
         }));
}

void time_tally(Device device, std::int64_t elements, int voters,
                std::span<const std::byte> random) {
  Stream stream(device);
  const BallotLayout layout = layout_of(elements);
  const double bytes = static_cast<double>(layout.extent()) / 8 * (voters + 1);
  if (bytes > 0.8 * static_cast<double>(cuda_core().free_bytes(device))) {
    fmt::print("tally of {} voters, {} Mi elements: not enough memory\n", voters, elements >> 20);
    return;
  }
  const Ballots ballots(layout, voters, device, random, stream);
  const Buffer bits(static_cast<std::size_t>(ballots.words) * 8, device);
  const Buffer blocks(static_cast<std::size_t>(ballots.block_words) * 8, device);
  DeviceTally tally(layout, layout.chunk(0, 1), voters, device);
  report(fmt::format("tally of {} voters", voters), elements, bytes, time_of(stream, [&] {
           tally.count(ballots.parts, {.seed = 1},
                       {bits.as<std::uint64_t>(), blocks.as<std::uint64_t>(), nullptr}, stream);
         }));
}

void time_newton_schulz(Device device, std::int64_t rows, std::int64_t cols,
                        std::span<const float> pattern) {
  const double side = static_cast<double>(std::min(rows, cols));
  const double length = static_cast<double>(std::max(rows, cols));
  constexpr int kSteps = 5;
  const double work = kSteps * (4 * side * side * length + 2 * side * side * side);
  struct Run {
    const char* name;
    DType type;
    Float32Products products;
  };
  for (const Run& run : {Run{"bf16", DType::bf16, Float32Products::full},
                         Run{"tf32", DType::f32, Float32Products::tf32},
                         Run{"f32", DType::f32, Float32Products::full}}) {
    Stream stream(device);
    stream.set_float32_products(run.products);
    const Buffer memory =
        filled(static_cast<std::size_t>(rows * cols) * 4, device, std::as_bytes(pattern), stream);
    const Tensor x = make_matrix(memory.data(), DType::f32, rows, cols, cols, device);
    NewtonSchulz newton_schulz(std::min(rows, cols), rows * cols, run.type, device);
    const double seconds = time_of(stream, [&] { newton_schulz.orthogonalize(x, kSteps, stream); });
    fmt::print("Newton-Schulz {:>5} x {:<5} {:<4} {:>10.3f} ms {:>8.1f} TFLOP/s\n", rows, cols,
               run.name, seconds * 1e3, work / seconds * 1e-12);
  }
}

int run(std::int64_t elements) {
  Device device;
  try {
    device = find_cuda_device();
  } catch (const Unavailable& why) {
    fmt::print("SKIPPED: {}\n", why.what());
    return 77;
  }
  fmt::print("{}\n", cuda_core().describe(device));
  const bool whole = elements == 0;
  const std::vector<float> pattern = random_floats(whole ? 1 << 22 : 1 << 12, 9);
  std::vector<std::uint64_t> random(whole ? 1 << 21 : 1 << 12);
  std::mt19937_64 engine(4);
  for (std::uint64_t& word : random) word = engine();
  const auto random_bytes = std::as_bytes(std::span(random));

  verify(device, whole ? 1 << 22 : elements);
  for (const int voters : {2, 8, 64, 1024})
    verify_tally(device, voters, whole ? 1 << 18 : kCols, random_bytes);
  if (differs) return 1;
  fmt::print("every kernel has the bits of the CPU\n");

  const std::vector<std::int64_t> sizes =
      whole ? std::vector<std::int64_t>{std::int64_t{64} << 20, std::int64_t{1} << 30}
            : std::vector{elements};
  for (const std::int64_t size : sizes) {
    time_elements(device, size, pattern);
    for (const int voters : {2, 8, 64, 1024})
      if (whole || voters <= 8) time_tally(device, size, voters, random_bytes);
  }
  if (whole) {
    time_newton_schulz(device, 4096, 4096, pattern);
    time_newton_schulz(device, 4096, 14336, pattern);
    time_newton_schulz(device, 2048, 8192, pattern);
  } else {
    time_newton_schulz(device, 32, 64, pattern);
  }
  return 0;
}

}  // namespace
}  // namespace ballot

int main(int count, char** arguments) {
  std::int64_t elements = 0;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i], option = "--elements=";
    if (!argument.starts_with(option) ||
        std::from_chars(argument.data() + option.size(), argument.data() + argument.size(),
                        elements)
                .ec != std::errc{} ||
        elements < ballot::kCols || elements % ballot::kCols != 0) {
      fmt::print("cuda_vote_bench [--elements=N], N a multiple of {}; got {}\n", ballot::kCols,
                 argument);
      return 2;
    }
  }
  try {
    return ballot::run(elements);
  } catch (const std::exception& error) {
    fmt::print("{}\n", error.what());
    return 1;
  }
}
