// SwiGLU and the vector exp under it.
#include <gtest/gtest.h>

#include "models/ops/swiglu.h"
#include "models/ops/swiglu_reference.h"
#include "models/ops/vector_math.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

TEST(VectorExp, IsWithinTwoTenMillionthsOfExp) {
  double worst = 0;
  for (double x = -87.2; x < 88.2; x += 0.00317) {
    const double want = std::exp(static_cast<double>(static_cast<float>(x)));
    worst = std::max(worst, std::abs(vector_exp(static_cast<float>(x)) - want) / want);
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(vector_exp(0.0f), 1.0f);
}

TEST(VectorExp, ClampsWhatFloatCannotHoldAndKeepsNaN) {
  EXPECT_LT(vector_exp(-1e30f), 2e-38f);
  EXPECT_GT(vector_exp(1e30f), 1e38f);
  EXPECT_TRUE(std::isfinite(vector_exp(1e30f)));
  EXPECT_TRUE(std::isnan(vector_exp(std::nanf(""))));
}

TEST(Swiglu, FollowsItsReferenceForwardAndBackward) {
  Stream stream;
  for (const std::int64_t cols : {1, 17, 64, 129}) {
    const std::int64_t rows = 5;
    const std::vector<double> x = random_values(rows * 2 * cols, 1, 8.0);
    const std::vector<double> dact = random_values(rows * cols, 2, 1.0);
    const auto forward = [&](const auto& z) { return reference::swiglu(z, cols); };
    const OwnedTensor up_gate = to_tensor(x, rows), act(DType::f32, {rows, cols});
    swiglu(up_gate, act, stream);
    const std::vector<double> want = forward(x);
    EXPECT_LT(relative_error(from_tensor(act), want), 3e-7) << cols;

    const OwnedTensor in_place = to_tensor(dact, rows);
    swiglu_backward(up_gate, in_place, stream);
    EXPECT_LT(relative_error(from_tensor(in_place), want), 3e-7) << cols;
    EXPECT_LT(relative_error(from_tensor(up_gate), complex_step_gradient(forward, x, dact)), 1e-6)
        << cols;
  }
}

TEST(Swiglu, InBf16RoundsOnceEachWay) {
  Stream stream;
  const std::int64_t rows = 3, cols = 50;
  const std::vector<double> x = random_values(rows * 2 * cols, 1, 4.0, true);
  const std::vector<double> dact = random_values(rows * cols, 2, 1.0, true);
  const auto forward = [&](const auto& z) { return reference::swiglu(z, cols); };
  const OwnedTensor up_gate = to_tensor<bfloat16>(x, rows), act = to_tensor<bfloat16>(dact, rows);
  swiglu_backward(up_gate, act, stream);
  EXPECT_LT(relative_error(from_tensor<bfloat16>(act), forward(x)), 0x1p-8);
  EXPECT_LT(relative_error(from_tensor<bfloat16>(up_gate), complex_step_gradient(forward, x, dact)),
            0x1p-8);
  const OwnedTensor again = to_tensor<bfloat16>(x, rows), y(DType::bf16, {rows, cols});
  swiglu(again, y, stream);
  EXPECT_EQ(from_tensor<bfloat16>(y), from_tensor<bfloat16>(act));
}

}  // namespace
}  // namespace ballot::test
