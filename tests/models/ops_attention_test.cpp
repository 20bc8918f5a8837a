// Attention against its reference: odd lengths, grouped heads, blocks of query rows, both types.
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "models/ops/attention.h"
#include "models/ops/attention_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr double kTheta = 10000.0;

struct Case {
  AttentionShape shape;
  std::vector<std::int64_t> documents = {};  // their lengths; none: one a row
};

class Attention : public ::testing::TestWithParam<Case> {
 protected:
  template <class T>
  struct Result {
    std::vector<double> output, gradient;
  };
  const std::vector<std::int32_t> starts =
      pack_documents(GetParam().shape.sequences, GetParam().shape.length, GetParam().documents);
  const AttentionShape shape = [this] {
    AttentionShape made = GetParam().shape;
    if (!starts.empty()) made.document_starts = starts.data();
    return made;
  }();
  const std::int64_t rows = shape.sequences * shape.length;
  const std::vector<double> x = random_values(rows * shape.width(), 1, 2.0, true);
  const std::vector<double> dy = random_values(rows * shape.heads * shape.head_size, 2, 1.0, true);

  template <class T>
  Result<T> run() const {
    return run<T>(shape, x, dy);
  }
  template <class T>
  static Result<T> run(const AttentionShape& of, const std::vector<double>& input,
                       const std::vector<double>& weights) {
    Stream stream;
    RopeTable rope(rope_frequencies(of.head_size, kTheta));
    rope.extend(of.length, stream);
    const std::int64_t n = of.sequences * of.length;
    const OwnedTensor vkq = to_tensor<T>(input, n), doutput = to_tensor<T>(weights, n);
    const OwnedTensor output(kDType<T>, {n, of.heads * of.head_size});
    std::vector<float> lse(n * of.heads);
    const Buffer scratch(attention_scratch_bytes(of, kDType<T>, Device{}));
    // What an earlier call left must not matter.
    std::fill_n(scratch.as<float>(), scratch.size_bytes() / 4, std::nanf(""));
    attention(of, rope, vkq, output, lse.data(), scratch.data(), stream);
    EXPECT_EQ(from_tensor<T>(vkq), input) << "the forward must not write its input";
    std::fill_n(scratch.as<float>(), scratch.size_bytes() / 4, std::nanf(""));
    attention_backward(of, rope, vkq, output, doutput, lse.data(), scratch.data(), stream);
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

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         ::testing::Values(Case{{1, 1, 1, 1, 2}}, Case{{2, 1, 4, 2, 16}},
                                           Case{{3, 7, 6, 2, 16}}, Case{{1, 130, 3, 3, 16}},
                                           Case{{2, 130, 2, 1, 32}}, Case{{1, 67, 3, 1, 64}},
                                           Case{{2, 16, 2, 2, 10}}));

// A block of queries has at most 128 rows: documents within blocks, at their ends, over several,
// and of one token.
const auto kPacked =
    ::testing::Values(Case{{2, 16, 2, 2, 10}, {5}}, Case{{1, 130, 3, 3, 16}, {64, 64}},
                      Case{{2, 300, 2, 1, 8}, {128, 1, 40, 131}}, Case{{1, 300, 2, 2, 4}, {1}},
                      Case{{1, 290, 4, 2, 6}, {7, 140, 1, 142}});
INSTANTIATE_TEST_SUITE_P(Packed, Attention, kPacked);

class PackedAttention : public Attention {};
INSTANTIATE_TEST_SUITE_P(Shapes, PackedAttention, kPacked);

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

// Packed in one row, each document has the output and the gradients that it has alone.
TEST_P(PackedAttention, ADocumentIsWhatItIsApart) {
  const Result<float> packed = run<float>();
  const std::int64_t width = shape.heads * shape.head_size;
  for (std::int64_t first = 0; first < rows;) {
    std::int64_t last = first + 1;
    while (last < rows && last % shape.length != 0 && starts[last] == starts[first]) ++last;
    AttentionShape alone = shape;
    alone.sequences = 1;
    alone.length = last - first;
    alone.document_starts = nullptr;
    const auto part = [&](const std::vector<double>& all, std::int64_t cols) {
      return std::vector<double>(all.begin() + first * cols, all.begin() + last * cols);
    };
    const Result<float> apart = run<float>(alone, part(x, shape.width()), part(dy, width));
    EXPECT_LT(relative_error(part(packed.output, width), apart.output), 2e-6) << first;
    EXPECT_LT(relative_error(part(packed.gradient, shape.width()), apart.gradient), 5e-6) << first;
    first = last;
  }
}

// Exactly, not to rounding.
TEST(AttentionMask, ADocumentDoesNotChangeWhenAnotherDoes) {
  const std::vector<std::int32_t> starts = pack_documents(1, 300, {90, 70, 140});
  const AttentionShape shape{1, 300, 2, 1, 16, starts.data()};
  Stream stream;
  RopeTable rope(rope_frequencies(shape.head_size, kTheta));
  rope.extend(shape.length, stream);
  const Buffer scratch(attention_scratch_bytes(shape, DType::f32, Device{}));
  std::vector<float> lse(shape.length * shape.heads);
  std::vector<double> x = random_values(shape.length * shape.width(), 1);
  const std::vector<double> dy = random_values(shape.length * 32, 2);
  std::vector<std::vector<double>> outputs, gradients;
  for (int turn = 0; turn < 2; ++turn) {
    const OwnedTensor vkq = to_tensor(x, 300), output(DType::f32, {300, 32});
    attention(shape, rope, vkq, output, lse.data(), scratch.data(), stream);
    outputs.push_back(from_tensor(output));
    attention_backward(shape, rope, vkq, output, to_tensor(dy, 300), lse.data(), scratch.data(),
                       stream);
    gradients.push_back(from_tensor(vkq));
    for (std::int64_t t = 0; t < 300; ++t)  // all but the document in the middle
      if (t < 90 || t >= 160)
        for (std::int64_t c = 0; c < shape.width(); ++c) x[t * shape.width() + c] *= -3;
  }
  const auto same = [](const std::vector<std::vector<double>>& of, std::int64_t begin,
                       std::int64_t end) {
    return std::equal(of[0].begin() + begin, of[0].begin() + end, of[1].begin() + begin);
  };
  EXPECT_TRUE(same(outputs, 90 * 32, 160 * 32));
  EXPECT_TRUE(same(gradients, 90 * shape.width(), 160 * shape.width()));
  EXPECT_FALSE(same(outputs, 0, 90 * 32));
  EXPECT_FALSE(same(outputs, 160 * 32, 300 * 32));
}

// Not quadratic: 64 times as much for 64 times the length would be.
TEST(AttentionMemory, ScratchIsLinearInTheLength) {
  const auto bytes = [](std::int64_t length) {
    return attention_scratch_bytes({1, length, 32, 8, 64}, DType::bf16, Device{});
  };
  EXPECT_LE(bytes(8192), 4 * bytes(2048) + (1 << 20));
  EXPECT_LE(bytes(8192), thread_count() * std::int64_t{24} << 20);  // of 32 heads: 2 GiB each
}

}  // namespace
}  // namespace ballot::test
