// RMSNorm against its reference and the complex step through it.
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "models/ops/rms_norm.h"
#include "models/ops/rms_norm_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr double kEpsilon = 1e-5;

struct Case {
  std::int64_t rows, cols;
};

class RmsNorm : public ::testing::TestWithParam<Case> {
 protected:
  const std::int64_t rows = GetParam().rows, cols = GetParam().cols;
  const std::vector<double> x = random_values(rows * cols, 1, 2.0);
  const std::vector<double> addend = random_values(rows * cols, 2, 1.0);
  const std::vector<double> gain = random_values(cols, 3, 1.5);
  const std::vector<double> dy = random_values(rows * cols, 4, 1.0);
  Stream stream;
};

TEST_P(RmsNorm, AddsThenNormalizesLikeTheReference) {
  const OwnedTensor tx = to_tensor(x, rows), ta = to_tensor(addend, rows), tg = to_tensor(gain, 1);
  const OwnedTensor y(DType::f32, {rows, cols}), rounded(DType::bf16, {rows, cols});
  std::vector<float> r(rows);
  rms_norm(tx, ta, tg, kEpsilon, y, r.data(), stream);
  std::vector<double> sum(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) sum[i] = static_cast<float>(x[i] + addend[i]);
  EXPECT_EQ(from_tensor(tx), sum);
  EXPECT_LT(relative_error(from_tensor(y), reference::rms_norm(sum, gain, kEpsilon)), 5e-7);
  rms_norm(tx, {}, tg, kEpsilon, rounded, r.data(), stream);
  EXPECT_EQ(from_tensor(tx), sum) << "nothing to add must leave x alone";
  EXPECT_LT(relative_error(from_tensor<bfloat16>(rounded), from_tensor(y)), 0x1p-8);
}

TEST_P(RmsNorm, GradientIsTheComplexStepOfTheReference) {
  const OwnedTensor tx = to_tensor(x, rows), tg = to_tensor(gain, 1), tdy = to_tensor(dy, rows);
  const OwnedTensor y(DType::f32, {rows, cols}), again(DType::f32, {rows, cols}),
      dx(DType::f32, {rows, cols}), rounded(DType::bf16, {rows, cols}),
      dgain(DType::f32, {1, cols});
  std::vector<float> r(rows), partials(rms_norm_partials(rows, cols, Device{}));
  rms_norm(tx, {}, tg, kEpsilon, y, r.data(), stream);
  const auto backward = [&](Accumulate accumulate) {
    rms_norm_backward(tx, r.data(), tg, tdy, {dx, accumulate, rounded, again, dgain, accumulate},
                      partials.data(), stream);
  };
  backward(Accumulate::no);
  const auto of_x = [&](const auto& z) {
    return reference::rms_norm(z, to_complex(gain), kEpsilon);
  };
  const auto of_gain = [&](const auto& z) {
    return reference::rms_norm(to_complex(x), z, kEpsilon);
  };
  std::vector<double> want_dgain = complex_step_gradient(of_gain, gain, dy);
  for (std::size_t i = 0; i < x.size();
       i += 1 + x.size() / 200)  // a sample: each costs a whole forward
    EXPECT_NEAR(from_tensor(dx)[i], complex_step(of_x, x, dy, i), 2e-6) << i;
  EXPECT_LT(relative_error(from_tensor(dgain), want_dgain), 1e-6);
  EXPECT_EQ(from_tensor(again), from_tensor(y));
  EXPECT_LT(relative_error(from_tensor<bfloat16>(rounded), from_tensor(dx)), 0x1p-8);

  std::vector<double> twice = from_tensor(dx);
  for (double& value : twice) value *= 2;
  for (double& value : want_dgain) value *= 2;
  backward(Accumulate::yes);
  EXPECT_LT(relative_error(from_tensor(dx), twice), 1e-6);
  EXPECT_LT(relative_error(from_tensor(dgain), want_dgain), 1e-6);
}

TEST_P(RmsNorm, BitsDoNotDependOnTheNumberOfThreads) {
  std::vector<std::vector<double>> results;
  const int before = thread_count();
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    const OwnedTensor tx = to_tensor(x, rows), tg = to_tensor(gain, 1), tdy = to_tensor(dy, rows);
    const OwnedTensor y(DType::f32, {rows, cols}), dx(DType::f32, {rows, cols}),
        dgain(DType::f32, {1, cols});
    std::vector<float> r(rows), partials(rms_norm_partials(rows, cols, Device{}));
    rms_norm(tx, {}, tg, kEpsilon, y, r.data(), stream);
    rms_norm_backward(tx, r.data(), tg, tdy, {dx, Accumulate::no, {}, {}, dgain, Accumulate::no},
                      partials.data(), stream);
    std::vector<double> all = from_tensor(dx);
    const std::vector<double> more = from_tensor(dgain);
    all.insert(all.end(), more.begin(), more.end());
    results.push_back(all);
  }
  set_thread_count(before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNorm,
                         ::testing::Values(Case{1, 1}, Case{1, 40}, Case{7, 17}, Case{130, 64},
                                           Case{67, 192}));

}  // namespace
}  // namespace ballot::test
