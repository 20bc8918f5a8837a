// LayerNorm against its reference and the complex step through it.
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "models/ops/layer_norm.h"
#include "models/ops/layer_norm_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr double kEpsilon = 1e-5;

struct Case {
  std::int64_t rows, cols;
};

class LayerNorm : public ::testing::TestWithParam<Case> {
 protected:
  const std::int64_t rows = GetParam().rows, cols = GetParam().cols;
  const std::vector<double> x = random_values(rows * cols, 1, 2.0);
  const std::vector<double> addend = random_values(rows * cols, 2, 1.0);
  const std::vector<double> gain = random_values(cols, 3, 1.5);
  const std::vector<double> bias = random_values(cols, 5, 1.5);
  const std::vector<double> dy = random_values(rows * cols, 4, 1.0);
  const OwnedTensor tg = to_tensor(gain, 1), tb = to_tensor(bias, 1), tdy = to_tensor(dy, rows);
  std::vector<float> moments = std::vector<float>(2 * rows);
  std::vector<float> partials = std::vector<float>(layer_norm_partials(rows, cols));
};

TEST_P(LayerNorm, AddsThenNormalizesLikeTheReference) {
  const OwnedTensor tx = to_tensor(x, rows), ta = to_tensor(addend, rows);
  const OwnedTensor y(DType::f32, {rows, cols}), rounded(DType::bf16, {rows, cols});
  layer_norm(tx, ta, tg, tb, kEpsilon, y, moments.data());
  std::vector<double> sum(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) sum[i] = static_cast<float>(x[i] + addend[i]);
  EXPECT_EQ(from_tensor(tx), sum);
  EXPECT_LT(relative_error(from_tensor(y), reference::layer_norm(sum, gain, bias, kEpsilon)), 1e-6);
  layer_norm(tx, {}, tg, tb, kEpsilon, rounded, moments.data());
  EXPECT_EQ(from_tensor(tx), sum) << "nothing to add must leave x alone";
  EXPECT_LT(relative_error(from_tensor<bfloat16>(rounded), from_tensor(y)), 0x1p-8);
}

TEST_P(LayerNorm, GradientIsTheComplexStepOfTheReference) {
  const OwnedTensor tx = to_tensor(x, rows);
  const OwnedTensor y(DType::f32, {rows, cols}), again(DType::f32, {rows, cols}),
      dx(DType::f32, {rows, cols}), rounded(DType::bf16, {rows, cols}),
      dgain(DType::f32, {1, cols}), dbias(DType::f32, {1, cols});
  layer_norm(tx, {}, tg, tb, kEpsilon, y, moments.data());
  const auto backward = [&](Accumulate accumulate) {
    layer_norm_backward(tx, moments.data(), tg, tb, tdy,
                        {dx, accumulate, rounded, again, dgain, dbias, accumulate},
                        partials.data());
  };
  backward(Accumulate::no);
  const auto of_x = [&](const auto& z) {
    return reference::layer_norm(z, to_complex(gain), to_complex(bias), kEpsilon);
  };
  const auto of_gain = [&](const auto& z) {
    return reference::layer_norm(to_complex(x), z, to_complex(bias), kEpsilon);
  };
  const auto of_bias = [&](const auto& z) {
    return reference::layer_norm(to_complex(x), to_complex(gain), z, kEpsilon);
  };
  std::vector<double> want_dgain = complex_step_gradient(of_gain, gain, dy);
  std::vector<double> want_dbias = complex_step_gradient(of_bias, bias, dy);
  // One column has no variance: r = 1 / sqrt(epsilon), and what cancels leaves rounding times that.
  const double largest = cols == 1 ? 1e-3 : 2e-5;
  const std::vector<double> got_dx = from_tensor(dx);
  for (std::size_t i = 0; i < x.size();
       i += 1 + x.size() / 200)  // a sample: each costs a whole forward
    EXPECT_NEAR(got_dx[i], complex_step(of_x, x, dy, i), largest) << i;
  if (cols > 1) {
    EXPECT_LT(relative_error(from_tensor(dgain), want_dgain), 2e-6);
  }
  EXPECT_LT(relative_error(from_tensor(dbias), want_dbias), 1e-6);
  EXPECT_EQ(from_tensor(again), from_tensor(y));
  EXPECT_LT(relative_error(from_tensor<bfloat16>(rounded), from_tensor(dx)), 0x1p-8);

  std::vector<double> twice = from_tensor(dx);
  for (double& value : twice) value *= 2;
  for (double& value : want_dbias) value *= 2;
  const std::vector<double> dgain_once = from_tensor(dgain);
  backward(Accumulate::yes);
  EXPECT_LT(relative_error(from_tensor(dx), twice), 1e-6);
  EXPECT_LT(relative_error(from_tensor(dbias), want_dbias), 1e-6);
  for (std::size_t c = 0; c < dgain_once.size(); ++c)
    EXPECT_NEAR(from_tensor(dgain)[c], 2 * dgain_once[c], 1e-5);
}

TEST_P(LayerNorm, BitsDoNotDependOnTheNumberOfThreads) {
  std::vector<std::vector<double>> results;
  const int before = thread_count();
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    const OwnedTensor tx = to_tensor(x, rows);
    const OwnedTensor y(DType::f32, {rows, cols}), dx(DType::f32, {rows, cols}),
        dgain(DType::f32, {1, cols}), dbias(DType::f32, {1, cols});
    layer_norm(tx, {}, tg, tb, kEpsilon, y, moments.data());
    layer_norm_backward(tx, moments.data(), tg, tb, tdy,
                        {dx, Accumulate::no, {}, {}, dgain, dbias, Accumulate::no},
                        partials.data());
    std::vector<double> all = from_tensor(dx);
    for (const OwnedTensor* more : {&dgain, &dbias})
      for (const double value : from_tensor(*more)) all.push_back(value);
    results.push_back(all);
  }
  set_thread_count(before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

INSTANTIATE_TEST_SUITE_P(Shapes, LayerNorm,
                         ::testing::Values(Case{1, 1}, Case{1, 40}, Case{7, 17}, Case{130, 64},
                                           Case{67, 192}));

}  // namespace
}  // namespace ballot::test
