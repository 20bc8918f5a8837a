// GELU against its reference and the complex step through it.
#include <gtest/gtest.h>

#include "models/ops/gelu.h"
#include "models/ops/gelu_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr std::int64_t kRows = 37, kCols = 53;

class Gelu : public ::testing::TestWithParam<double> {  // the largest |z|
 protected:
  const std::vector<double> z = random_values(kRows * kCols, 1, GetParam());
  const std::vector<double> dact = random_values(kRows * kCols, 2, 1.0);
};

TEST_P(Gelu, IsTheReferences) {
  const OwnedTensor tz = to_tensor(z, kRows), act(DType::f32, {kRows, kCols});
  gelu(tz, act);
  const std::vector<double> want = reference::gelu(z), got = from_tensor(act);
  EXPECT_LT(relative_error(got, want), 5e-7);
  for (std::size_t i = 0; i < z.size(); ++i)
    ASSERT_NEAR(got[i], want[i], 1e-6 * (1 + std::abs(z[i]))) << z[i];
}

TEST_P(Gelu, GradientIsTheComplexStepAndTheActivationComesBack) {
  const OwnedTensor tz = to_tensor(z, kRows), act = to_tensor(dact, kRows),
                    forward(DType::f32, {kRows, kCols});
  gelu(tz, forward);
  gelu_backward(tz, act);
  std::vector<double> want;
  for (std::size_t i = 0; i < z.size(); ++i)
    want.push_back(dact[i] * reference::gelu(Complex(z[i], kComplexStep)).imag() / kComplexStep);
  EXPECT_LT(relative_error(from_tensor(tz), want), 2e-6);
  EXPECT_EQ(from_tensor(act), from_tensor(forward));
}

TEST_P(Gelu, Bf16IsTheSameRounded) {
  const std::vector<double> coarse = random_values(kRows * kCols, 1, GetParam(), true);
  const std::vector<double> coarse_dact = random_values(kRows * kCols, 2, 1.0, true);
  const OwnedTensor exact = to_tensor(coarse, kRows), rounded = to_tensor<bfloat16>(coarse, kRows);
  const OwnedTensor exact_act = to_tensor(coarse_dact, kRows),
                    rounded_act = to_tensor<bfloat16>(coarse_dact, kRows);
  gelu_backward(exact, exact_act);
  gelu_backward(rounded, rounded_act);
  EXPECT_LT(relative_error(from_tensor<bfloat16>(rounded), from_tensor(exact)), 0x1p-8);
  EXPECT_LT(relative_error(from_tensor<bfloat16>(rounded_act), from_tensor(exact_act)), 0x1p-8);
}

INSTANTIATE_TEST_SUITE_P(Sizes, Gelu, ::testing::Values(0.01, 3.0, 60.0));

}  // namespace
}  // namespace ballot::test
