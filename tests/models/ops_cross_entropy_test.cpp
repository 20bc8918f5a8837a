// Cross-entropy against its reference: loss, gradient, masked rows, large logits.
#include <gtest/gtest.h>

#include "models/ops/cross_entropy.h"
#include "models/ops/cross_entropy_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

class CrossEntropy : public ::testing::TestWithParam<std::int64_t> {
 protected:
  const std::int64_t rows = 9, classes = GetParam();
  const std::vector<double> x = random_values(rows * classes, 1, 12.0);
  std::vector<std::int32_t> targets = [&] {
    std::vector<std::int32_t> t;
    for (std::int64_t n = 0; n < rows; ++n)
      t.push_back(n % 4 == 2 ? kNoTarget : static_cast<std::int32_t>(mix64(n) % classes));
    return t;
  }();
  static constexpr double kScale = 0.125;
  Stream stream;
};

TEST_P(CrossEntropy, LossAndGradientFollowTheReference) {
  const auto forward = [&](const auto& z) {
    return std::vector{reference::cross_entropy(z, targets)};
  };
  const OwnedTensor logits = to_tensor(x, rows);
  std::vector<double> losses(rows), fused(rows);
  cross_entropy(logits, targets, losses.data(), stream);
  double sum = 0;
  for (const double loss : losses) sum += loss;
  EXPECT_NEAR(sum, forward(x)[0], 1e-6 * rows);

  cross_entropy_with_gradient(logits, targets, kScale, fused.data(), logits, stream);
  for (std::int64_t n = 0; n < rows; ++n) EXPECT_NEAR(fused[n], losses[n], 1e-6);
  const std::vector<double> want = complex_step_gradient(forward, x, {kScale});
  const std::vector<double> got = from_tensor(logits);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-7) << i;
  for (std::int64_t c = 0; c < classes; ++c) EXPECT_EQ(got[2 * classes + c], 0.0);

  const OwnedTensor again = to_tensor(x, rows), rounded(DType::bf16, {rows, classes});
  cross_entropy_with_gradient(again, targets, kScale, fused.data(), rounded, stream);
  EXPECT_LE(norm(from_tensor<bfloat16>(rounded)) == 0
                ? norm(got)
                : relative_error(from_tensor<bfloat16>(rounded), got),
            0x1p-8);
}

INSTANTIATE_TEST_SUITE_P(Classes, CrossEntropy, ::testing::Values(1, 2, 15, 64, 258));

TEST(CrossEntropyRows, SurviveLogitsThatOverflowExp) {
  const std::vector<double> x = {500.0, -500.0, 499.0, 0.0};
  const std::vector<std::int32_t> targets = {2};
  const OwnedTensor logits = to_tensor(x, 1);
  double loss = 0;
  Stream stream;
  cross_entropy_with_gradient(logits, targets, 1.0f, &loss, logits, stream);
  EXPECT_NEAR(loss, std::log1p(std::exp(1.0)), 1e-6);
  EXPECT_NEAR(from_tensor(logits)[0], 1 / (1 + std::exp(-1.0)), 1e-6);
}

TEST(CrossEntropyRows, AChunkIsAtMostEightMegabytes) {
  EXPECT_EQ(cross_entropy_chunk_rows(4096, Device{}), 512);
  EXPECT_EQ(cross_entropy_chunk_rows(128256, Device{}), 256);
  EXPECT_EQ(cross_entropy_chunk_rows(1 << 20, Device{}), 32);
  EXPECT_EQ(cross_entropy_chunk_rows(1 << 24, Device{}), 16);
}

}  // namespace
}  // namespace ballot::test
