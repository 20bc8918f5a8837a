// Attention against its reference: odd lengths, grouped heads, blocks of query rows, both types.
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "models/ops/attention.h"
#include "models/ops/attention_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr double kTheta = 10000.0;

class Attention : public ::testing::TestWithParam<AttentionShape> {
 protected:
  template <class T>
  struct Result {
    std::vector<double> output, gradient;
  };
  const AttentionShape shape = GetParam();
  const std::int64_t rows = shape.sequences * shape.length;
  const std::vector<double> x = random_values(rows * shape.width(), 1, 2.0, true);
  const std::vector<double> dy = random_values(rows * shape.heads * shape.head_size, 2, 1.0, true);

  template <class T>
  Result<T> run() const {
    Stream stream;
    RopeTable rope(rope_frequencies(shape.head_size, kTheta));
    rope.extend(shape.length, stream);
    const OwnedTensor vkq = to_tensor<T>(x, rows), doutput = to_tensor<T>(dy, rows);
    const OwnedTensor output(kDType<T>, {rows, shape.heads * shape.head_size});
    std::vector<float> lse(rows * shape.heads);
    const Buffer scratch(attention_scratch_bytes(shape, kDType<T>, Device{}));
    attention(shape, rope, vkq, output, lse.data(), scratch.data(), stream);
    EXPECT_EQ(from_tensor<T>(vkq), x) << "the forward must not write its input";
    attention_backward(shape, rope, vkq, output, doutput, lse.data(), scratch.data(), stream);
    return {from_tensor<T>(output), from_tensor<T>(vkq)};
  }
  // The gradient along eight sign directions, and at a sample of elements.
  void expect_gradient(const std::vector<double>& got, double tolerance) const {
    const auto forward = [&](const auto& z) { return reference::attention(shape, kTheta, z); };
    for (std::uint64_t sample = 0; sample < 4; ++sample) {
      std::vector<Complex> z = to_complex(x);
      std::vector<double> direction = random_values(x.size(), 100 + sample);
      double along = 0;
      for (std::size_t i = 0; i < z.size(); ++i) {
        z[i] += Complex(0, direction[i] * kComplexStep);
        along += direction[i] * got[i];
      }
      const std::vector<Complex> y = forward(z);
      double want = 0;
      for (std::size_t i = 0; i < y.size(); ++i) want += y[i].imag() * dy[i];
      want /= kComplexStep;
      EXPECT_NEAR(along, want, tolerance * norm(got) * norm(direction) / 3);
    }
    for (std::uint64_t sample = 0; sample < 16; ++sample) {
      const std::size_t i = hash64(7, sample, 0) % x.size();
      EXPECT_NEAR(got[i], complex_step(forward, x, dy, i),
                  tolerance * 4 * norm(got) / std::sqrt(static_cast<double>(got.size())))
          << i;
    }
  }
};

TEST_P(Attention, FollowsTheReferenceInFp32) {
  const Result<float> got = run<float>();
  EXPECT_LT(relative_error(got.output, reference::attention(shape, kTheta, x)), 1e-6);
  expect_gradient(got.gradient, 1e-5);
}

// Operands of each product carry 2^-9 relative errors; a handful of them in a row stays below 2^-6.
TEST_P(Attention, StaysNearTheReferenceInBf16) {
  if (!has_bf16()) GTEST_SKIP() << "needs bf16 products (AVX-512)";
  const Result<bfloat16> got = run<bfloat16>();
  EXPECT_LT(relative_error(got.output, reference::attention(shape, kTheta, x)), 0x1p-7);
  const Result<float> exact = run<float>();
  EXPECT_LT(relative_error(got.gradient, exact.gradient), 0x1p-6);
}

TEST_P(Attention, BitsDoNotDependOnTheNumberOfThreads) {
  const int before = thread_count();
  set_thread_count(2);
  const Result<float> two = run<float>();
  set_thread_count(3);
  const Result<float> three = run<float>();
  set_thread_count(before);
  EXPECT_EQ(two.output, three.output);
  EXPECT_EQ(two.gradient, three.gradient);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Attention,
    ::testing::Values(AttentionShape{1, 1, 1, 1, 2}, AttentionShape{2, 1, 4, 2, 16},
                      AttentionShape{3, 7, 6, 2, 16}, AttentionShape{1, 130, 3, 3, 16},
                      AttentionShape{2, 130, 2, 1, 32}, AttentionShape{1, 67, 3, 1, 64},
                      AttentionShape{2, 16, 2, 2, 10}));

// Later keys must not reach earlier queries: exactly, not to rounding.
TEST(AttentionMask, OutputDoesNotChangeWhenTheFutureDoes) {
  const AttentionShape shape{1, 70, 2, 1, 16};
  Stream stream;
  RopeTable rope(rope_frequencies(shape.head_size, kTheta));
  rope.extend(shape.length, stream);
  const Buffer scratch(attention_scratch_bytes(shape, DType::f32, Device{}));
  std::vector<float> lse(shape.length * shape.heads);
  std::vector<double> x = random_values(shape.length * shape.width(), 1);
  const OwnedTensor before(DType::f32, {70, 32}), after(DType::f32, {70, 32});
  attention(shape, rope, to_tensor(x, 70), before, lse.data(), scratch.data(), stream);
  for (std::size_t i = 41 * shape.width(); i < x.size(); ++i) x[i] = -3 * x[i];
  attention(shape, rope, to_tensor(x, 70), after, lse.data(), scratch.data(), stream);
  const std::vector<double> a = from_tensor(before), b = from_tensor(after);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 41 * 32, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 41 * 32, a.end(), b.begin() + 41 * 32));
}

}  // namespace
}  // namespace ballot::test
