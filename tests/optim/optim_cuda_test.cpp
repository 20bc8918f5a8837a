// The optimizer's passes on a GPU against the CPU, bit for bit but for matrix products.

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "collectives/transport/loopback_transport.h"
#include "core/error.h"
#include "core/hash.h"
#include "optim/cuda_optim.h"
#include "optim/direction.h"
#include "optim/member_gram_sum.h"
#include "optim/newton_schulz.h"
#include "optim/newton_schulz_reference.h"
#include "optim/replicated_update.h"
#include "optim/square_sum.h"
#include "tests/cuda/mirror.h"
#include "tests/optim/matrices.h"

namespace ballot {
namespace {

using test::bytes_of;
using test::Mirror;

struct Shape {
  std::int64_t rows, cols;
};
// Short rows, odd ones, several thread blocks, more rows than pieces.
constexpr Shape kShapes[] = {{1, 1},  {1, 63},    {1, 64},   {3, 65},   {7, 512},
                             {5, 37}, {33, 1000}, {70, 256}, {600, 20}, {2, 5000}};

// Ordinary numbers with zeros of both signs and a tiny one among them.
void fill_mixed(const Tensor& x, std::uint64_t seed, double scale = 1) {
  std::vector<double> values = random_normal(x.count(), seed, scale);
  for (std::size_t i = 0; i < values.size(); i += 37) values[i] = i % 2 == 0 ? -0.0 : 0.0;
  for (std::size_t i = 5; i < values.size(); i += 91) values[i] = 1e-41;
  fill(x, values);
}

TEST(ScanOnGpu, SumsToTheBitsOfTheCpuAndFindsSilentRows) {
  Stream stream(test::cuda_device());
  for (const Shape shape : kShapes) {
    PaddedMatrix g(shape.rows, shape.cols);
    fill_mixed(g, 3, 1e-3);
    for (std::int64_t row = 1; row < shape.rows; row += 3)
      std::fill_n(g.view().f32() + row * g.view().stride[0], shape.cols, -0.0f);
    const Mirror gpu(g);
    std::vector<std::uint8_t> silent(static_cast<std::size_t>(shape.rows), 7), expected = silent;
    const GradientScan found = scan_gradient(gpu, silent, stream);
    const GradientScan truth = scan_gradient(g, expected, cpu);
    EXPECT_EQ(found.square_sum, truth.square_sum) << shape.rows << "x" << shape.cols;
    EXPECT_TRUE(found.finite);
    EXPECT_EQ(silent, expected);
    EXPECT_EQ(scan_gradient(gpu, {}, stream).square_sum, truth.square_sum);
  }
}

TEST(ScanOnGpu, FindsOneNanOrInfinityAnywhere) {
  Stream stream(test::cuda_device());
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity})
    for (const auto& [row, col] : {std::pair{0, 0}, {4, 69}, {2, 15}, {2, 64}}) {
      PaddedMatrix g(5, 70);
      fill(g, random_normal(5 * 70, 1));
      g.view().f32()[row * g.view().stride[0] + col] = bad;
      EXPECT_FALSE(scan_gradient(Mirror(g), {}, stream).finite) << bad << " at " << row;
    }
  PaddedMatrix large(300, 70);
  fill(large, std::vector<float>(300 * 70, std::numeric_limits<float>::max()));
  EXPECT_TRUE(scan_gradient(Mirror(large), {}, stream).finite);
}

TEST(DirectionOnGpu, HasTheBitsOfTheCpuUnderEveryRule) {
  Stream stream(test::cuda_device());
  for (const Rule rule : {Rule::olion, Rule::lion, Rule::signum, Rule::sgd})
    for (const DType type : {DType::f32, DType::bf16})
      for (const Shape shape : {Shape{1, 1}, {3, 65}, {33, 1000}}) {
        ParameterGroup group = default_group(rule);
        group.newton_schulz = false;
        if (rule == Rule::sgd) group.momentum = 0.9;
        PaddedMatrix g(shape.rows, shape.cols), u(shape.rows, shape.cols),
            m(shape.rows, shape.cols, type);
        const Mirror gpu_g(g), gpu_u(u), gpu_m(m);
        for (int step = 0; step < 3; ++step) {
          fill_mixed(g, 40 + step, 1e-2);
          stream.synchronize();  // the step before still reads it
          gpu_g.take(g);
          find_direction(group, g, m, u, nullptr, cpu);
          find_direction(group, gpu_g, gpu_m, gpu_u, nullptr, stream);
        }
        EXPECT_EQ(gpu_m.bytes(stream), bytes_of(m)) << to_string(rule) << shape.cols;
        EXPECT_EQ(gpu_u.bytes(stream), bytes_of(u)) << to_string(rule) << shape.cols;
      }
}

TEST(DirectionOnGpu, MovesNoMomentumWhereTheGateIsNotFinite) {
  Stream stream(test::cuda_device());
  const ParameterGroup group = default_group(Rule::lion);
  PaddedMatrix g(5, 700), m(5, 700), u(5, 700);
  fill_mixed(g, 9);
  fill_mixed(m, 10);
  const Mirror gpu_g(g), gpu_m(m), gpu_u(u);
  const std::vector<std::byte> before = bytes_of(m), nothing = bytes_of(u);
  const double infinity = std::numeric_limits<double>::infinity();
  const test::DeviceArray<double> gates(std::vector<double>{std::nan(""), infinity, -infinity, 2});
  for (int shut = 0; shut < 3; ++shut) {
    find_direction(group, gpu_g, gpu_m, gpu_u, nullptr, stream, gates.data() + shut);
    EXPECT_EQ(gpu_m.bytes(stream), before);
    EXPECT_EQ(gpu_u.bytes(stream), nothing);
  }
  find_direction(group, gpu_g, gpu_m, gpu_u, nullptr, stream, gates.data() + 3);
  find_direction(group, g, m, u, nullptr, cpu);
  EXPECT_EQ(gpu_m.bytes(stream), bytes_of(m));
  EXPECT_EQ(gpu_u.bytes(stream), bytes_of(u));
}

// One pass for what absorb() and square_sum() do.
TEST(DirectionOnGpu, SumsItsSquaresInTheSamePassToTheSameBits) {
  Stream stream(test::cuda_device());
  for (const Shape shape : kShapes)
    for (const DType type : {DType::f32, DType::bf16})
      for (const bool old_momentum : {false, true}) {
        PaddedMatrix g(shape.rows, shape.cols), u(shape.rows, shape.cols);
        const PaddedMatrix m(shape.rows, shape.cols, type);
        fill_mixed(g, 41, 1e-2);
        const Mirror gpu_g(g), gpu_u(u), twice_u(u);
        const Mirror gpu_m(m), twice_m(m);
        const MomentumWeights weights{0.98f, 0.02f, 0.1f, 0.9f, old_momentum};
        const auto rows = static_cast<std::size_t>(shape.rows);
        const test::DeviceArray<double> sums(rows + 1), twice_sums(rows + 1);
        const std::int64_t extent = (shape.rows - 1) * u.view().stride[0] + shape.cols;
        for (int step = 0; step < 2; ++step) {
          cuda_optim().absorb_and_sum(weights, gpu_g, gpu_m, gpu_u, nullptr, sums.data(),
                                      sums.data() + 1, stream);
          cuda_optim().absorb(weights, extent, gpu_g.view().f32(), twice_m, twice_u.view().f32(),
                              nullptr, stream);
          cuda_optim().square_sum(twice_u, twice_sums.data(), twice_sums.data() + 1, nullptr,
                                  stream);
        }
        EXPECT_EQ(gpu_u.bytes(stream), twice_u.bytes(stream)) << shape.rows << "x" << shape.cols;
        EXPECT_EQ(gpu_m.bytes(stream), twice_m.bytes(stream)) << shape.rows << "x" << shape.cols;
        EXPECT_EQ(sums.read(stream), twice_sums.read(stream)) << shape.rows << "x" << shape.cols;
      }
}

TEST(DirectionOnGpu, LeavesWhatLiesBehindItAsItWas) {
  Stream stream(test::cuda_device());
  for (const DType type : {DType::f32, DType::bf16})
    for (std::int64_t cols = 1; cols <= 17; ++cols) {
      ParameterGroup group = default_group(Rule::lion);
      group.newton_schulz = false;
      const std::vector<float> ones(static_cast<std::size_t>(cols + 1), 1.0f);
      const test::DeviceTensor g(DType::f32, {1, cols + 1}, ones), m(type, {1, cols + 1}, ones),
          u(DType::f32, {1, cols + 1}, ones);
      Tensor g_part = g.view(), m_part = m.view(), u_part = u.view();
      for (Tensor* part : {&g_part, &m_part, &u_part}) part->extent[1] = cols;
      fill_zero(g_part.data, static_cast<std::size_t>(cols + 1) * sizeof(float), stream);
      find_direction(group, g_part, m_part, u_part, nullptr, stream);
      for (const test::DeviceTensor* written : {&m, &u}) {
        const std::vector<float> values = written->read(stream);
        EXPECT_NE(values[0], 1.0f);
        EXPECT_EQ(values.back(), 1.0f) << "behind " << cols << " of " << to_string(type);
      }
    }
}

TEST(DirectionOnGpu, TensorsOfTwoDevicesAreRefused) {
  Stream stream(test::cuda_device());
  PaddedMatrix x(2, 70);
  const Mirror gpu(x);
  ParameterGroup group = default_group(Rule::lion);
  EXPECT_THROW(find_direction(group, gpu, x, gpu, nullptr, stream), LogicError);
  NewtonSchulz of_the_cpu(2, 140, DType::f32);
  EXPECT_THROW(of_the_cpu.orthogonalize(gpu, 5, stream), LogicError);
}

// ---- replicated updates ----

// The same parameter on both devices, one behind another, so that offset, ballot offset and block
// number are not 0.
struct Pair {
  ParameterArena cpu_arena, gpu_arena;
  BallotLayout layout;
  const Parameter& on_cpu;
  const Parameter& on_gpu;
  const BallotSegment& segment;
  Pair(std::int64_t rows, std::int64_t cols, DType compute)
      : cpu_arena(shapes(rows, cols), compute),
        gpu_arena(shapes(rows, cols), compute, test::cuda_device()),
        layout({segment_of(cpu_arena.parameters()[0]), segment_of(cpu_arena.parameters()[1])}),
        on_cpu(cpu_arena.parameters()[1]),
        on_gpu(gpu_arena.parameters()[1]),
        segment(layout.segments()[1]) {
    fill_mixed(on_cpu.value, 21, 0.02);
    cpu_arena.refresh_compute();
    for (const auto& [from, to] :
         {std::pair{on_cpu.value, on_gpu.value}, std::pair{on_cpu.compute, on_gpu.compute}}) {
      Stream stream(test::cuda_device());
      copy(from, to, stream);
      stream.synchronize();
    }
  }
  static std::vector<ParameterShape> shapes(std::int64_t rows, std::int64_t cols) {
    return {{"first", ParameterKind::hidden_matrix, 3, 100},
            {"tested", ParameterKind::hidden_matrix, rows, cols}};
  }
  // With padding: it must stay zero.
  std::vector<std::byte> bytes(const Tensor& of_gpu, Stream& stream) const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(on_cpu.extent()) *
                                 size_bytes(of_gpu.type));
    copy_bytes(bytes.data(), {}, of_gpu.data, of_gpu.device, bytes.size(), stream);
    stream.synchronize();
    return bytes;
  }
  static std::vector<std::byte> bytes(const Tensor& of_cpu, const Parameter& p) {
    return {of_cpu.data,
            of_cpu.data + static_cast<std::size_t>(p.extent()) * size_bytes(of_cpu.type)};
  }
  bool agree(Stream& stream) const {
    return bytes(on_gpu.value, stream) == bytes(on_cpu.value, on_cpu) &&
           bytes(on_gpu.compute, stream) == bytes(on_cpu.compute, on_cpu);
  }
};

// Bits in padding are set on purpose: nothing may read them.
Verdict random_verdict(const Pair& pair, bool hold_elements, std::uint64_t seed) {
  Verdict verdict;
  verdict.bits = BitVector(pair.layout.extent());
  verdict.held_blocks = BitVector(pair.layout.blocks());
  if (hold_elements) verdict.held_elements = BitVector(pair.layout.extent());
  for (std::int64_t i = 0; i < pair.layout.extent(); ++i) {
    verdict.bits.set(i, hash64(seed, 1, i) & 1);
    if (hold_elements) verdict.held_elements.set(i, hash64(seed, 2, i) % 3 == 0);
  }
  for (std::int64_t i = 0; i < pair.layout.blocks(); ++i)
    verdict.held_blocks.set(i, hash64(seed, 3, i) % 4 == 0);
  return verdict;
}

TEST(UpdateOnGpu, AppliesAVerdictToTheBitsOfTheCpu) {
  Stream stream(test::cuda_device());
  for (const Shape shape : kShapes)
    for (const DType compute : {DType::f32, DType::bf16}) {
      const Pair pair(shape.rows, shape.cols, compute);
      for (const bool hold : {false, true})
        for (const RateFactors factors : {RateFactors{0, 6e-4f}, RateFactors{3e-4f, 1e-3f}}) {
          const Verdict verdict = random_verdict(pair, hold, 5);
          const std::uint64_t digest =
              apply_verdict(verdict, pair.segment, factors, pair.on_cpu, cpu);
          EXPECT_EQ(apply_verdict(verdict, pair.segment, factors, pair.on_gpu, stream), digest);
          EXPECT_TRUE(pair.agree(stream)) << shape.rows << "x" << shape.cols << " hold " << hold;
        }
    }
}

RC_GTEST_PROP(UpdateOnGpu, AnyVerdictAndDecay, ()) {
  static Stream stream(test::cuda_device());
  if (*rc::gen::inRange(0, 10) != 0) return;  // a hundred times ten: enough
  const Pair pair(*rc::gen::inRange<std::int64_t>(1, 12), *rc::gen::inRange<std::int64_t>(1, 300),
                  *rc::gen::element(DType::f32, DType::bf16));
  const RateFactors factors{*rc::gen::element(0.0f, 3e-4f, 1e-9f), *rc::gen::element(0.0f, 6e-4f)};
  const Verdict verdict =
      random_verdict(pair, *rc::gen::arbitrary<bool>(), *rc::gen::arbitrary<std::uint32_t>());
  RC_ASSERT(apply_verdict(verdict, pair.segment, factors, pair.on_gpu, stream) ==
            apply_verdict(verdict, pair.segment, factors, pair.on_cpu, cpu));
  RC_ASSERT(pair.agree(stream));
}

TEST(UpdateOnGpu, DenseStepsAndDecayHaveTheBitsOfTheCpu) {
  Stream stream(test::cuda_device());
  for (const Shape shape : kShapes)
    for (const DType compute : {DType::f32, DType::bf16}) {
      const Pair pair(shape.rows, shape.cols, compute);
      PaddedMatrix direction(shape.rows, shape.cols);
      fill_mixed(direction, 12);
      const Mirror gpu(direction);
      for (const float decay : {0.0f, 2e-4f}) {
        const RateFactors factors{decay, 1e-2f};
        EXPECT_EQ(apply_direction(gpu, factors, pair.on_gpu, stream),
                  apply_direction(direction, factors, pair.on_cpu, cpu));
        EXPECT_TRUE(pair.agree(stream)) << shape.rows << "x" << shape.cols;
        EXPECT_EQ(apply_decay(factors, pair.on_gpu, stream),
                  apply_decay(factors, pair.on_cpu, cpu));
        EXPECT_TRUE(pair.agree(stream)) << shape.rows << "x" << shape.cols;
      }
    }
}

TEST(UpdateOnGpu, AdamwHasTheBitsOfTheCpuForManySteps) {
  Stream stream(test::cuda_device());
  const ParameterGroup group = default_group(Rule::adamw);
  for (const Shape shape : {Shape{1, 1}, {1, 63}, {3, 65}, {33, 1000}}) {
    const Pair pair(shape.rows, shape.cols, DType::bf16);
    PaddedMatrix g(shape.rows, shape.cols), m(shape.rows, shape.cols), v(shape.rows, shape.cols);
    const Mirror gpu_g(g), gpu_m(m), gpu_v(v);
    for (int t = 1; t <= 5; ++t) {
      fill_mixed(g, 60 + t, t == 3 ? 1e-20 : 1e-2);
      gpu_g.take(g);
      const RateFactors factors{1e-4f, 3e-3f};
      EXPECT_EQ(apply_adamw(group, gpu_g, t, factors, gpu_m, gpu_v, pair.on_gpu, stream),
                apply_adamw(group, g, t, factors, m, v, pair.on_cpu, cpu));
    }
    EXPECT_TRUE(pair.agree(stream));
    EXPECT_EQ(gpu_m.bytes(stream), bytes_of(m));
    EXPECT_EQ(gpu_v.bytes(stream), bytes_of(v));
  }
}

TEST(UpdateOnGpu, DigestsThatAreFetchedLaterAreTheSame) {
  Stream stream(test::cuda_device());
  const ParameterGroup group = default_group(Rule::adamw);
  const Pair pair(33, 1000, DType::bf16);
  PaddedMatrix g(33, 1000), m(33, 1000), v(33, 1000);
  fill_mixed(g, 3);
  const Mirror gpu_g(g), gpu_m(m), gpu_v(v);
  const RateFactors factors{1e-4f, 3e-3f};
  const Verdict verdict = random_verdict(pair, true, 5);
  const AdamCorrections corrections = adam_corrections(group, 1, factors.step);
  const test::DeviceArray<std::uint64_t> later(std::vector<std::uint64_t>(4));
  const std::vector<std::uint64_t> at_once = {
      apply_verdict(verdict, pair.segment, factors, pair.on_cpu, cpu),
      apply_direction(g, factors, pair.on_cpu, cpu),
      apply_adamw(group, g, corrections, 1e-4f, m, v, pair.on_cpu, cpu),
      apply_decay(factors, pair.on_cpu, cpu)};
  std::uint64_t* const digests = later.data();
  EXPECT_EQ(apply_verdict(verdict, pair.segment, factors, pair.on_gpu, stream, digests), 0u);
  EXPECT_EQ(apply_direction(gpu_g, factors, pair.on_gpu, stream, digests + 1), 0u);
  EXPECT_EQ(
      apply_adamw(group, gpu_g, corrections, 1e-4f, gpu_m, gpu_v, pair.on_gpu, stream, digests + 2),
      0u);
  EXPECT_EQ(apply_decay(factors, pair.on_gpu, stream, digests + 3), 0u);
  EXPECT_EQ(later.read(stream), at_once);
  EXPECT_TRUE(pair.agree(stream));
  EXPECT_THROW(apply_verdict(verdict, pair.segment, factors, pair.on_cpu, cpu, digests),
               LogicError);
}

// ---- Newton-Schulz ----

TEST(NewtonSchulzOnGpu, ScalesToTheBitsOfTheCpu) {
  Stream stream(test::cuda_device());
  for (const Shape shape : kShapes)
    for (const DType type : {DType::f32, DType::bf16}) {
      const Normalization by =
          normalization_of(type == DType::f32 ? Coefficients::keller : Coefficients::polar_express);
      PaddedMatrix x(shape.rows, shape.cols);
      fill_mixed(x, 31, 1e-3);
      const Mirror gpu(x);
      const OwnedTensor y(type, {shape.rows, shape.cols}, test::cuda_device());
      const test::DeviceArray<double> sums(static_cast<std::size_t>(shape.rows + 1));
      cuda_optim().square_sum(gpu, sums.data(), sums.data() + 1, nullptr, stream);
      cuda_optim().normalize(gpu, y, sums.data(), by, stream);
      const auto scale =
          static_cast<float>(1.0 / (by.factor * std::sqrt(square_sum(x, {}, cpu)) + by.epsilon));
      const std::vector<float> values = elements(x);
      std::vector<std::byte> expected;
      for (const float value : values) {
        const auto bits32 = std::bit_cast<std::array<std::byte, 4>>(scale * value);
        const auto bits16 = std::bit_cast<std::array<std::byte, 2>>(to_bfloat16(scale * value));
        if (type == DType::f32)
          expected.insert(expected.end(), bits32.begin(), bits32.end());
        else
          expected.insert(expected.end(), bits16.begin(), bits16.end());
      }
      std::vector<std::byte> found(expected.size());
      stream.synchronize();
      copy_bytes(found.data(), {}, y.view().data, y.view().device, found.size(), stream);
      EXPECT_EQ(found, expected) << shape.rows << "x" << shape.cols << " " << to_string(type);
    }
}

TEST(NewtonSchulzOnGpu, ScalesRowsOfAnyStride) {
  Stream stream(test::cuda_device());
  const std::vector<double> values = random_normal(3 * 16, 32);
  const std::vector<float> x(values.begin(), values.end());
  for (const std::int64_t padding : {0, 1, 4, 8})
    for (const DType type : {DType::f32, DType::bf16}) {
      const test::DeviceTensor from(DType::f32, {3, 16}, x, padding), to(type, {3, 16});
      cuda_optim().scale(from, to, 0.5f, stream);
      std::vector<float> expected;
      for (const float value : x)
        expected.push_back(type == DType::f32 ? 0.5f * value : to_float(to_bfloat16(0.5f * value)));
      EXPECT_EQ(to.read(stream), expected) << padding << " " << to_string(type);
    }
}

TEST(NewtonSchulzOnGpu, FindsThePolynomialToTheBitsOfTheCpu) {
  Stream stream(test::cuda_device());
  for (const std::int64_t side : {1, 2, 3, 7, 8, 33, 64, 100})
    for (const DType type : {DType::f32, DType::bf16}) {
      const Quintic q = side % 2 == 0 ? quintic_of(Coefficients::keller, 0)
                                      : quintic_of(Coefficients::polar_express, side % 5);
      const auto count = static_cast<std::size_t>(side * side);
      const std::vector<double> a = random_normal(side * side, 1),
                                b = random_normal(side * side, 2);
      std::vector<float> gram, square, expected;
      for (std::size_t i = 0; i < count; ++i) {
        gram.push_back(static_cast<float>(a[i]));
        if (type == DType::bf16) gram.back() = to_float(to_bfloat16(gram.back()));
        square.push_back(static_cast<float>(b[i]));
        const float product = q.b * gram[i], second = q.c * square[i];
        float value = product + second;
        if (i % static_cast<std::size_t>(side + 1) == 0) value = q.a + value;
        expected.push_back(type == DType::bf16 ? to_float(to_bfloat16(value)) : value);
      }
      const test::DeviceTensor gpu_gram(type, {side, side}, gram);
      const test::DeviceTensor gpu_square(DType::f32, {side, side}, square);
      const test::DeviceTensor rounded(type, {side, side});
      const Tensor& result = type == DType::f32 ? gpu_square.view() : rounded.view();
      cuda_optim().polynomial(q, gpu_gram, gpu_square, result, stream);
      EXPECT_EQ((type == DType::f32 ? gpu_square : rounded).read(stream), expected)
          << side << " " << to_string(type);
    }
}

TEST(NewtonSchulzOnGpu, MatchesFloat64InEveryShape) {
  Stream stream(test::cuda_device());
  NewtonSchulz newton_schulz(72, 200 * 72, DType::f32, test::cuda_device());
  for (const Shape shape :
       {Shape{1, 1}, {1, 50}, {50, 1}, {24, 40}, {40, 24}, {64, 193}, {200, 72}})
    for (const int steps : {1, 5}) {
      PaddedMatrix x(shape.rows, shape.cols);
      fill(x, random_normal(shape.rows * shape.cols, 11, 1e-4));
      const std::vector<float> start = elements(x);
      const std::vector<double> truth = newton_schulz_reference(
          std::vector<double>(start.begin(), start.end()), shape.rows, shape.cols, steps);
      const Mirror gpu(x);
      newton_schulz.orthogonalize(gpu, steps, stream);
      const std::vector<std::byte> bytes = gpu.bytes(stream);
      PaddedMatrix back(shape.rows, shape.cols);
      std::memcpy(back.view().data, bytes.data(), bytes.size());
      const std::vector<float> result = elements(back);
      for (std::size_t i = 0; i < truth.size(); ++i)
        ASSERT_NEAR(result[i], truth[i], 5e-6) << shape.rows << "x" << shape.cols;
      EXPECT_TRUE(back.padding_is_zero());
    }
}

TEST(NewtonSchulzOnGpu, Bf16FlipsFewSignsAndAZeroMatrixStaysZero) {
  Stream stream(test::cuda_device());
  NewtonSchulz newton_schulz(96, 96 * 256, DType::bf16, test::cuda_device());
  PaddedMatrix x(96, 256);
  fill(x, random_normal(96 * 256, 21, 1e-3));
  const std::vector<float> start = elements(x);
  const std::vector<double> truth =
      newton_schulz_reference(std::vector<double>(start.begin(), start.end()), 96, 256, 5);
  const test::DeviceTensor gpu(DType::f32, {96, 256}, start);
  newton_schulz.orthogonalize(gpu, 5, stream);
  const std::vector<float> result = gpu.read(stream);
  std::int64_t flipped = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    flipped += (result[i] < 0) != (truth[i] < 0);
    EXPECT_NEAR(result[i], truth[i], 0.05);
  }
  EXPECT_LT(flipped, static_cast<std::int64_t>(truth.size() / 50));
  const test::DeviceTensor zero(DType::f32, {8, 24});
  newton_schulz.orthogonalize(zero, 5, stream);
  for (const float e : zero.read(stream)) EXPECT_EQ(e, 0.0f);
}

TEST(NewtonSchulzOnGpu, PartsOfAMatrixGiveWhatTheWholeGives) {
  constexpr std::int64_t kSide = 24, kCols = 80;
  const std::vector<double> values = random_normal(kSide * kCols, 5);
  const std::vector<double> truth = newton_schulz_reference(values, kSide, kCols, 5);
  run_loopback(2, [&](Transport& members) {
    Stream stream(test::cuda_device());
    const std::int64_t sides[] = {kSide};
    MemberGramSum sums(sides, members, std::chrono::seconds(60));
    NewtonSchulz newton_schulz(kSide, kSide * kCols / 2, DType::f32, test::cuda_device());
    const std::int64_t first = members.rank() * kCols / 2;
    std::vector<float> mine;
    for (std::int64_t i = 0; i < kSide; ++i)
      for (std::int64_t j = first; j < first + kCols / 2; ++j)
        mine.push_back(static_cast<float>(values[static_cast<std::size_t>(i * kCols + j)]));
    const test::DeviceTensor part(DType::f32, {kSide, kCols / 2}, mine);
    newton_schulz.orthogonalize_part(part, true, 5, sums, stream);
    const std::vector<float> result = part.read(stream);
    for (std::int64_t i = 0; i < kSide; ++i)
      for (std::int64_t j = 0; j < kCols / 2; ++j)
        EXPECT_NEAR(result[static_cast<std::size_t>(i * kCols / 2 + j)],
                    truth[static_cast<std::size_t>(i * kCols + first + j)], 1e-5);
  });
}

}  // namespace
}  // namespace ballot
