// Scans, momentum and interpolation against the float64 truth; the same bits on every team.

#include "optim/direction.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <limits>

#include "core/error.h"
#include "optim/direction_reference.h"
#include "optim/newton_schulz_reference.h"
#include "tests/optim/matrices.h"

namespace ballot {
namespace {

constexpr Rule kRules[] = {Rule::olion, Rule::lion, Rule::signum, Rule::muon, Rule::sgd};

ParameterGroup element_wise(Rule rule) {
  ParameterGroup group = default_group(rule);
  group.newton_schulz = false;
  if (rule == Rule::sgd) group.momentum = 0.9;
  return group;
}

TEST(GradientScan, SumsSquaresInDoubleToTheSameBitsOnEveryTeam) {
  for (const auto& [rows, cols] : {std::pair{1, 1}, {1, 777}, {3, 65}, {257, 33}, {700, 130}}) {
    PaddedMatrix g(rows, cols);
    const std::vector<double> x = random_normal(rows * cols, 3);
    fill(g, x);
    long double truth = 0;
    for (const float e : elements(g)) truth += static_cast<long double>(e) * e;
    Team one(1);
    const double sum = scan_gradient(g, {}, cpu).square_sum;
    EXPECT_NEAR(sum, static_cast<double>(truth), 1e-12 * sum);
    for (const int threads : {2, 3}) {
      Team team(threads);
      EXPECT_EQ(scan_gradient(g, {}, cpu).square_sum, sum);
    }
  }
}

TEST(GradientScan, FindsOneNaNOrInfinityAnywhere) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity})
    for (const auto& [row, col] : {std::pair{0, 0}, {4, 69}, {2, 15}, {2, 64}}) {
      PaddedMatrix g(5, 70);
      fill(g, random_normal(5 * 70, 1));
      EXPECT_TRUE(scan_gradient(g, {}, cpu).finite);
      g.view().f32()[row * g.view().stride[0] + col] = bad;
      EXPECT_FALSE(scan_gradient(g, {}, cpu).finite) << bad << " at " << row << ", " << col;
    }
}

TEST(GradientScan, TheLargestFloatsAreFinite) {
  PaddedMatrix g(300, 70);
  fill(g, std::vector<float>(300 * 70, std::numeric_limits<float>::max()));
  EXPECT_TRUE(scan_gradient(g, {}, cpu).finite);
}

TEST(GradientScan, ARowIsSilentOnlyWhenEveryElementIsZero) {
  PaddedMatrix g(4, 70);
  float* x = g.view().f32();
  const std::int64_t stride = g.view().stride[0];
  x[0 * stride + 3] = -0.0f;
  x[1 * stride + 69] = std::numeric_limits<float>::denorm_min();
  x[2 * stride + 0] = std::numeric_limits<float>::quiet_NaN();
  std::vector<std::uint8_t> silent(4, 7);
  scan_gradient(g, silent, cpu);
  EXPECT_EQ(silent, (std::vector<std::uint8_t>{1, 0, 0, 1}));
}

TEST(Direction, FollowsTheRuleInFloat64ForManySteps) {
  Stream stream;
  for (const Rule rule : kRules) {
    if (rule == Rule::muon) continue;  // always orthogonalized; below
    const ParameterGroup group = element_wise(rule);
    PaddedMatrix g(7, 77), m(7, 77), u(7, 77);
    std::vector<double> truth(7 * 77, 0.0);
    for (int step = 0; step < 20; ++step) {
      fill(g, random_normal(7 * 77, 100 + step));
      find_direction(group, g, m, u, nullptr, stream);
      const std::vector<float> gradient = elements(g), momentum = elements(m),
                               direction = elements(u);
      for (std::size_t i = 0; i < truth.size(); ++i) {
        const double expected = direction_reference<double>(group, gradient[i], truth[i]);
        ASSERT_NEAR(direction[i], expected, 4e-6) << to_string(rule) << " step " << step;
        ASSERT_NEAR(momentum[i], truth[i], 4e-6) << to_string(rule) << " step " << step;
      }
    }
    EXPECT_TRUE(m.padding_is_zero());
    EXPECT_TRUE(u.padding_is_zero());
  }
}

TEST(Direction, MuonAndOLionOrthogonalizeTheInterpolation) {
  Stream stream;
  for (const Rule rule : {Rule::muon, Rule::olion})
    for (const auto& [rows, cols] : {std::pair{12, 30}, {30, 12}}) {
      const ParameterGroup group = default_group(rule);
      NewtonSchulz newton_schulz(12, 360, DType::f32);
      PaddedMatrix g(rows, cols), m(rows, cols), u(rows, cols);
      std::vector<double> truth(rows * cols, 0.0);
      for (int step = 0; step < 3; ++step) {
        fill(g, random_normal(rows * cols, 7 + step, 1e-3));
        find_direction(group, g, m, u, &newton_schulz, stream);
        std::vector<double> expected = truth;
        const std::vector<float> gradient = elements(g);
        for (std::size_t i = 0; i < truth.size(); ++i)
          expected[i] = direction_reference<double>(group, gradient[i], truth[i]);
        expected = newton_schulz_reference(expected, rows, cols, 5);
        const std::vector<float> direction = elements(u);
        for (std::size_t i = 0; i < truth.size(); ++i) ASSERT_NEAR(direction[i], expected[i], 1e-5);
      }
      EXPECT_TRUE(u.padding_is_zero());
    }
}

TEST(Direction, LionReadsTheOldMomentumAndOLionTheNew) {
  Stream stream;
  PaddedMatrix g(1, 1), m(1, 1), u(1, 1);
  g.view().f32()[0] = 1;
  find_direction(element_wise(Rule::lion), g, m, u, nullptr, stream);
  EXPECT_FLOAT_EQ(u.view().f32()[0], 0.05f);
  m.view().f32()[0] = 0;
  find_direction(element_wise(Rule::olion), g, m, u, nullptr, stream);
  EXPECT_FLOAT_EQ(u.view().f32()[0], 0.05f + 0.95f * 0.02f);
}

RC_GTEST_PROP(Direction, HasTheSameBitsOnEveryTeam, ()) {
  const Rule rule = *rc::gen::element(Rule::olion, Rule::lion, Rule::signum, Rule::sgd);
  const DType type = *rc::gen::element(DType::f32, DType::bf16);
  const auto rows = *rc::gen::inRange<std::int64_t>(1, 90),
             cols = *rc::gen::inRange<std::int64_t>(1, 300);
  const auto seed = *rc::gen::arbitrary<std::uint32_t>();
  Stream stream;
  std::vector<float> directions[3], momenta[3];
  for (int threads = 1; threads <= 3; ++threads) {
    Team team(threads);
    PaddedMatrix g(rows, cols), m(rows, cols, type), u(rows, cols);
    for (int step = 0; step < 2; ++step) {
      fill(g, random_normal(rows * cols, seed + step));
      find_direction(element_wise(rule), g, m, u, nullptr, stream);
    }
    directions[threads - 1] = elements(u);
    momenta[threads - 1] = elements(m);
    RC_ASSERT(m.padding_is_zero());
    RC_ASSERT(u.padding_is_zero());
  }
  RC_ASSERT(directions[0] == directions[1]);
  RC_ASSERT(directions[0] == directions[2]);
  RC_ASSERT(momenta[0] == momenta[1]);
  RC_ASSERT(momenta[0] == momenta[2]);
}

TEST(Direction, MomentumInBf16StaysWithinItsRounding) {
  Stream stream;
  for (const Rule rule : {Rule::olion, Rule::lion}) {
    const ParameterGroup group = element_wise(rule);
    PaddedMatrix g(4, 100), narrow(4, 100, DType::bf16), wide(4, 100), u(4, 100), v(4, 100);
    fill(g, random_normal(400, 5));
    for (int step = 0; step < 3; ++step) {
      find_direction(group, g, narrow, u, nullptr, stream);
      find_direction(group, g, wide, v, nullptr, stream);
    }
    const std::vector<float> a = elements(narrow), b = elements(wide), x = elements(u),
                             y = elements(v);
    bool rounded = false;
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i], b[i], 3 * std::abs(b[i]) / 256);
      EXPECT_NEAR(x[i], y[i], 3 * std::abs(y[i]) / 256 + 1e-7);
      rounded |= a[i] != b[i];
    }
    EXPECT_TRUE(rounded);
  }
}

TEST(Direction, RefusesWhatItCannotDo) {
  Stream stream;
  PaddedMatrix g(3, 5), m(3, 5), u(3, 5), other(5, 3);
  EXPECT_THROW(find_direction(default_group(Rule::adamw), g, m, u, nullptr, stream), LogicError);
  EXPECT_THROW(find_direction(default_group(Rule::olion), g, m, u, nullptr, stream), LogicError);
  EXPECT_THROW(find_direction(element_wise(Rule::lion), g, m, other, nullptr, stream), LogicError);
}

}  // namespace
}  // namespace ballot
