// Replicated updates against the scalar reference, bit for bit: any shape, hold, team; and what
// digests notice.

#include "optim/replicated_update.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>

#include "core/error.h"
#include "core/hash.h"
#include "optim/replicated_update_reference.h"
#include "tests/optim/matrices.h"

namespace ballot {
namespace {

// One parameter behind another, so that offset, ballot offset and block number are not 0.
struct Fixture {
  ParameterArena arena;
  BallotLayout layout;
  const Parameter& parameter;
  const BallotSegment& segment;
  Fixture(std::int64_t rows, std::int64_t cols, DType compute)
      : arena(std::vector<ParameterShape>{{"first", ParameterKind::hidden_matrix, 3, 100},
                                          {"tested", ParameterKind::hidden_matrix, rows, cols}},
              compute),
        layout(segments()),
        parameter(arena.parameters()[1]),
        segment(layout.segments()[1]) {}
  std::vector<BallotSegment> segments() const {
    std::vector<BallotSegment> list;
    for (const Parameter& p : arena.parameters()) {
      list.push_back(segment_of(p));
    }
    return list;
  }
  // Ordinary values with zeros of both signs and a tiny one among them.
  void randomize(std::uint64_t seed) const {
    std::vector<double> x = random_normal(parameter.count(), seed, 0.02);
    for (std::size_t i = 0; i < x.size(); i += 37) x[i] = i % 2 == 0 ? -0.0 : 0.0;
    for (std::size_t i = 5; i < x.size(); i += 91) x[i] = 1e-41;
    fill(parameter.value, x);
    arena.refresh_compute();
  }
};

Verdict random_verdict(const Fixture& f, bool hold_elements, std::uint64_t seed) {
  Verdict verdict;
  verdict.bits = BitVector(f.layout.extent());
  verdict.held_blocks = BitVector(f.layout.blocks());
  if (hold_elements) verdict.held_elements = BitVector(f.layout.extent());
  // Bits in padding are set on purpose: nothing may read them.
  for (std::int64_t i = 0; i < f.layout.extent(); ++i) {
    verdict.bits.set(i, hash64(seed, 1, i) & 1);
    if (hold_elements) verdict.held_elements.set(i, hash64(seed, 2, i) % 3 == 0);
  }
  for (std::int64_t i = 0; i < f.layout.blocks(); ++i)
    verdict.held_blocks.set(i, hash64(seed, 3, i) % 4 == 0);
  return verdict;
}

bool padding_is_zero(const Parameter& p) {
  for (std::int64_t i = 0; i < p.shape.rows; ++i)
    for (std::int64_t j = p.shape.cols; j < p.row_stride; ++j) {
      if (std::bit_cast<std::uint32_t>(p.value.f32()[i * p.row_stride + j]) != 0) return false;
      if (p.compute.type == DType::bf16 && p.compute.bf16()[i * p.row_stride + j].bits != 0)
        return false;
    }
  return true;
}

// Compares value, compute and digest with `expected` (real elements in order), to the bit.
void expect_bits(const Fixture& f, std::uint64_t digest, const std::vector<float>& expected) {
  const Parameter& p = f.parameter;
  std::uint64_t sum = 0;
  std::size_t at = 0, wrong = 0;
  for (std::int64_t i = 0; i < p.shape.rows; ++i)
    for (std::int64_t j = 0; j < p.shape.cols; ++j, ++at) {
      const std::int64_t e = i * p.row_stride + j;
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(expected[at]);
      wrong += std::bit_cast<std::uint32_t>(p.value.f32()[e]) != bits;
      if (p.compute.type == DType::bf16)
        wrong += p.compute.bf16()[e].bits != to_bfloat16(expected[at]).bits;
      sum += element_digest(bits, static_cast<std::uint64_t>(p.offset + e));
    }
  RC_ASSERT(wrong == 0u);
  RC_ASSERT(digest == sum);
  RC_ASSERT(padding_is_zero(p));
}

struct Case {
  std::int64_t rows, cols;
  DType compute;
  RateFactors factors;
  std::uint64_t seed;
};
Case any_case() {
  return {*rc::gen::inRange<std::int64_t>(1, 24),
          *rc::gen::inRange<std::int64_t>(1, 600),
          *rc::gen::element(DType::f32, DType::bf16),
          {*rc::gen::element(0.0f, 3e-4f, 1e-9f), *rc::gen::element(0.0f, 6e-4f, 1e-3f)},
          *rc::gen::arbitrary<std::uint32_t>()};
}

RC_GTEST_PROP(ApplyVerdict, HasTheBitsOfTheScalarReferenceOnEveryTeam, ()) {
  const Case c = any_case();
  const bool hold_elements = *rc::gen::arbitrary<bool>();
  const Fixture f(c.rows, c.cols, c.compute);
  const Verdict verdict = random_verdict(f, hold_elements, c.seed);
  for (int threads = 1; threads <= 3; ++threads) {
    Team team(threads);
    f.randomize(c.seed);
    std::vector<float> expected = elements(f.parameter.value);
    for (std::int64_t i = 0; i < c.rows; ++i)
      for (std::int64_t j = 0; j < c.cols; ++j) {
        const std::int64_t in_ballot = f.segment.offset + i * f.segment.row_stride + j;
        const bool held = verdict.held_blocks.get(f.layout.block_of(in_ballot)) ||
                          (hold_elements && verdict.held_elements.get(in_ballot));
        float& p = expected[i * c.cols + j];
        p = verdict_reference(p, verdict.bits.get(in_ballot), held, c.factors.decay,
                              c.factors.step);
      }
    expect_bits(f, apply_verdict(verdict, f.segment, c.factors, f.parameter, cpu), expected);
  }
}

RC_GTEST_PROP(ApplyDirection, HasTheBitsOfTheScalarReferenceOnEveryTeam, ()) {
  const Case c = any_case();
  const Fixture f(c.rows, c.cols, c.compute);
  PaddedMatrix direction(c.rows, c.cols);
  fill(direction, random_normal(c.rows * c.cols, c.seed + 1));
  const std::vector<float> d = elements(direction);
  for (int threads = 1; threads <= 3; ++threads) {
    Team team(threads);
    f.randomize(c.seed);
    std::vector<float> expected = elements(f.parameter.value);
    for (std::size_t i = 0; i < expected.size(); ++i)
      expected[i] = dense_reference(expected[i], d[i], c.factors.decay, c.factors.step);
    expect_bits(f, apply_direction(direction, c.factors, f.parameter, cpu), expected);
  }
}

RC_GTEST_PROP(ApplyDecay, HasTheBitsOfTheScalarReferenceOnEveryTeam, ()) {
  const Case c = any_case();
  const Fixture f(c.rows, c.cols, c.compute);
  for (int threads = 1; threads <= 3; ++threads) {
    Team team(threads);
    f.randomize(c.seed);
    std::vector<float> expected = elements(f.parameter.value);
    for (float& p : expected) p = decay_reference(p, c.factors.decay);
    expect_bits(f, apply_decay(c.factors, f.parameter, cpu), expected);
  }
}

RC_GTEST_PROP(ApplyAdamW, HasTheBitsOfTheScalarReferenceOnEveryTeam, ()) {
  const Case c = any_case();
  const Fixture f(c.rows, c.cols, c.compute);
  const ParameterGroup group = default_group(Rule::adamw);
  for (int threads = 1; threads <= 3; ++threads) {
    Team team(threads);
    f.randomize(c.seed);
    PaddedMatrix g(c.rows, c.cols), m(c.rows, c.cols), v(c.rows, c.cols);
    std::vector<float> expected = elements(f.parameter.value);
    std::vector<float> first(expected.size()), second(expected.size());
    for (int t = 1; t <= 3; ++t) {
      fill(g, random_normal(c.rows * c.cols, c.seed + t, 1e-3));
      const std::vector<float> gradient = elements(g);
      const AdamReference<float> adam = adam_reference(group, c.factors.step, t);
      for (std::size_t i = 0; i < expected.size(); ++i)
        expected[i] =
            adamw_reference(expected[i], gradient[i], first[i], second[i], c.factors.decay, adam);
      const std::uint64_t digest = apply_adamw(group, g, t, c.factors, m, v, f.parameter, cpu);
      expect_bits(f, digest, expected);
    }
    RC_ASSERT(elements(m) == first);
    RC_ASSERT(elements(v) == second);
    RC_ASSERT(m.padding_is_zero());
    RC_ASSERT(v.padding_is_zero());
  }
}

TEST(ApplyAdamW, StaysNearFloat64) {
  const Fixture f(5, 90, DType::f32);
  f.randomize(1);
  const ParameterGroup group = default_group(Rule::adamw);
  PaddedMatrix g(5, 90), m(5, 90), v(5, 90);
  const std::vector<float> start = elements(f.parameter.value);
  std::vector<double> w(start.begin(), start.end()), first(w.size()), second(w.size());
  for (int t = 1; t <= 50; ++t) {
    fill(g, random_normal(450, 40 + t));
    const std::vector<float> gradient = elements(g);
    const AdamReference<double> adam = adam_reference(group, 3e-3, t);
    for (std::size_t i = 0; i < w.size(); ++i)
      w[i] = adamw_reference<double>(w[i], gradient[i], first[i], second[i], 3e-4, adam);
    apply_adamw(group, g, t, {3e-4f, 3e-3f}, m, v, f.parameter, cpu);
  }
  const std::vector<float> result = elements(f.parameter.value);
  for (std::size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(result[i], w[i], 1e-6);
}

TEST(ApplyAdamW, TheFirstStepIsTheRateTimesTheSign) {
  const Fixture f(1, 3, DType::f32);
  fill(f.parameter.value, std::vector<float>{1, 1, 1});
  PaddedMatrix g(1, 3), m(1, 3), v(1, 3);
  fill(g, std::vector<float>{5, -0.01f, 0});
  apply_adamw(default_group(Rule::adamw), g, 1, {0, 0.125f}, m, v, f.parameter, cpu);
  EXPECT_NEAR(f.parameter.value.f32()[0], 0.875, 1e-6);
  EXPECT_NEAR(f.parameter.value.f32()[1], 1.125, 1e-6);
  EXPECT_EQ(f.parameter.value.f32()[2], 1);
}

TEST(WeightDecay, FollowsTheProductWhereOneMinusItIsFivePercentOff) {
  // 1 - lr wd in fp32 is 1 - 3 x 2^-24 for lr wd = 2e-7: too little by a tenth before the product
  // rounds. Rounding of p - (lr wd) p differs from element to element, so the mean follows.
  const float decay = 2e-7f;
  const Fixture f(32, 320, DType::f32);
  fill(f.parameter.value, random_normal(32 * 320, 17, 0.02));
  double before = 0, after = 0, wrong = 0;
  for (const float p : elements(f.parameter.value)) {
    before += std::abs(p);
    wrong += std::abs(static_cast<double>(p)) - std::abs(p * (1.0f - decay));
  }
  apply_decay({decay, 0}, f.parameter, cpu);
  for (const float p : elements(f.parameter.value)) after += std::abs(p);
  EXPECT_NEAR((before - after) / (before * decay), 1.0, 0.03);
  EXPECT_GT(std::abs(wrong / (before * decay) - 1.0), 0.04);
}

TEST(WeightDecay, AtOneBillionthReachesOnlyWhatFp32CanHold) {
  // The factor itself survives (1 - 1e-9 is 1 in fp32), but an element changes only where the
  // product is more than half its ulp, which no normal float is at 1e-9: such a decay is below what
  // fp32 masters can hold.
  ParameterGroup group = default_group(Rule::olion);
  group.rate = 1e-8;
  group.weight_decay = 0.1;
  const RateFactors factors = rate_factors(group, 1, 32, 320);
  EXPECT_EQ(factors.decay, 1e-9f);
  EXPECT_EQ(1.0f - factors.decay, 1.0f);
  const Fixture f(32, 320, DType::f32);
  fill(f.parameter.value, random_normal(32 * 320, 17, 0.02));
  const std::vector<float> before = elements(f.parameter.value);
  apply_decay({factors.decay, 0}, f.parameter, cpu);
  EXPECT_EQ(elements(f.parameter.value), before);
  // From 2^-25 = 3e-8 on, the first elements move.
  apply_decay({3.3e-8f, 0}, f.parameter, cpu);
  EXPECT_NE(elements(f.parameter.value), before);
}

TEST(WeightDecay, ZeroDecayKeepsEveryBitOfAHeldElement) {
  const Fixture f(4, 192, DType::bf16);
  f.randomize(3);
  f.parameter.value.f32()[1] = -0.0f;
  Verdict verdict = random_verdict(f, false, 1);
  for (std::int64_t b = 0; b < f.layout.blocks(); ++b) verdict.held_blocks.set(b, true);
  std::vector<float> before = elements(f.parameter.value);
  const std::uint64_t digest = apply_decay({0, 0}, f.parameter, cpu);
  for (int step = 0; step < 3; ++step)
    EXPECT_EQ(apply_verdict(verdict, f.segment, {0, 6e-4f}, f.parameter, cpu), digest);
  const std::vector<float> after = elements(f.parameter.value);
  EXPECT_EQ(std::memcmp(before.data(), after.data(), before.size() * sizeof(float)), 0);
}

TEST(ApplyVerdict, ANegativeVerdictRaisesTheWeight) {
  const Fixture f(1, 64, DType::f32);
  fill(f.parameter.value, std::vector<float>(64, 1.0f));
  Verdict verdict;
  verdict.bits = BitVector(f.layout.extent());
  verdict.held_blocks = BitVector(f.layout.blocks());
  verdict.bits.set(f.segment.offset + 7, true);
  apply_verdict(verdict, f.segment, {0, 0.25f}, f.parameter, cpu);
  EXPECT_EQ(f.parameter.value.f32()[7], 1.25f);
  EXPECT_EQ(f.parameter.value.f32()[8], 0.75f);
}

TEST(ApplyVerdict, RefusesTheSegmentOfAnotherParameter) {
  const Fixture f(4, 64, DType::f32);
  const Verdict verdict = random_verdict(f, false, 1);
  EXPECT_THROW(apply_verdict(verdict, f.layout.segments()[0], {}, f.parameter, cpu), LogicError);
  EXPECT_THROW(apply_verdict(Verdict{}, f.segment, {}, f.parameter, cpu), LogicError);
}

RC_GTEST_PROP(Digest, ChangesWithAnyFlippedBit, ()) {
  const Fixture f(*rc::gen::inRange<std::int64_t>(1, 9), *rc::gen::inRange<std::int64_t>(1, 200),
                  DType::f32);
  f.randomize(*rc::gen::arbitrary<std::uint32_t>());
  const std::uint64_t before = apply_decay({}, f.parameter, cpu);
  const std::int64_t row = *rc::gen::inRange<std::int64_t>(0, f.parameter.shape.rows);
  const std::int64_t col = *rc::gen::inRange<std::int64_t>(0, f.parameter.shape.cols);
  float& p = f.parameter.value.f32()[row * f.parameter.row_stride + col];
  for (int bit = 0; bit < 32; ++bit) {
    const float kept = p;
    p = std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) ^ (1u << bit));
    RC_ASSERT(apply_decay({}, f.parameter, cpu) != before);
    p = kept;
  }
  RC_ASSERT(apply_decay({}, f.parameter, cpu) == before);
}

RC_GTEST_PROP(Digest, ChangesWhenTwoElementsChangePlaces, ()) {
  const Fixture f(4, 200, DType::f32);
  f.randomize(*rc::gen::arbitrary<std::uint32_t>());
  const std::uint64_t before = apply_decay({}, f.parameter, cpu);
  const auto place = [&] {
    return *rc::gen::inRange<std::int64_t>(0, 4) * f.parameter.row_stride +
           *rc::gen::inRange<std::int64_t>(0, 200);
  };
  float& a = f.parameter.value.f32()[place()];
  float& b = f.parameter.value.f32()[place()];
  RC_PRE(std::bit_cast<std::uint32_t>(a) != std::bit_cast<std::uint32_t>(b));
  std::swap(a, b);
  RC_ASSERT(apply_decay({}, f.parameter, cpu) != before);
}

RC_GTEST_PROP(Digest, NoticesTheSameBitFlippedInSeveralNeighbours, ()) {
  // Linear hashes cancel such patterns: x + 2^b, y - 2^(b+1), z + 2^b at equal distances.
  const Fixture f(2, 200, DType::f32);
  fill(f.parameter.value, std::vector<float>(400, 1.0f));
  const std::uint64_t before = apply_decay({}, f.parameter, cpu);
  const std::int64_t first = *rc::gen::inRange(0, 100), distance = *rc::gen::inRange(1, 50);
  const std::uint32_t bit = *rc::gen::inRange<std::uint32_t>(0, 22);
  float* p = f.parameter.value.f32();
  const auto add = [](float& x, std::uint32_t y) {
    x = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) + y);
  };
  add(p[first], 1u << bit);
  add(p[first + distance], 0u - (2u << bit));
  add(p[first + 2 * distance], 1u << bit);
  RC_ASSERT(apply_decay({}, f.parameter, cpu) != before);
}

#ifdef BALLOT_TEST_LEVEL
TEST(ReplicatedUpdate, IsCompiledForOneInstructionSetHere) {
  fmt::print("replicated_update.cpp for {}\n", BALLOT_TEST_LEVEL);
#ifdef __AVX512F__
  FAIL() << "expected no AVX-512";
#endif
}
#endif

}  // namespace
}  // namespace ballot
