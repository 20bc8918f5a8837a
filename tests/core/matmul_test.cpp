// The matmul seam against a plain loop: strides, transposes, accumulation, types, threads.
#include "core/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace ballot::test {
namespace {

// A matrix with rows `stride` apart, whose padding holds a mark, transposed or not.
struct Matrix {
  std::vector<float> values;
  std::vector<bfloat16> rounded;
  Tensor tensor;

  Matrix(DType type, std::int64_t rows, std::int64_t cols, bool transposed, std::int64_t padding,
         std::uint64_t seed) {
    const std::int64_t lines = transposed ? cols : rows, width = transposed ? rows : cols;
    const std::int64_t stride = width + padding;
    for (std::int64_t i = 0; i < lines * stride; ++i) {
      const float value = static_cast<float>(hash64(seed, i, 0) % 2001) / 1000.0f - 1.0f;
      rounded.push_back(to_bfloat16(value));
      values.push_back(type == DType::bf16 ? to_float(rounded.back()) : value);
    }
    void* data = type == DType::bf16 ? static_cast<void*>(rounded.data()) : values.data();
    tensor = make_matrix(data, type, lines, width, stride);
    if (transposed) tensor = tensor.transposed();
  }
  double at(std::int64_t row, std::int64_t col) const {
    return values[row * tensor.stride[0] + col * tensor.stride[1]];
  }
};

struct Case {
  DType in, out;
  std::int64_t m, n, k;
};

void check_product(const Case& c, bool a_transposed, bool b_transposed, std::int64_t padding,
                   Accumulate accumulate) {
  const Matrix a(c.in, c.m, c.k, a_transposed, padding, 1),
      b(c.in, c.k, c.n, b_transposed, padding, 2);
  Matrix y(c.out, c.m, c.n, false, padding, 3);
  const Matrix before = y;
  Stream stream;
  matmul(a.tensor, b.tensor, y.tensor, accumulate, stream);
  // fp32 sums of k products below 1; bf16 results are rounded once more.
  const double unit = c.out == DType::f32 ? 0x1p-23 : 0x1p-8;
  for (std::int64_t i = 0; i < c.m; ++i)
    for (std::int64_t j = 0; j < c.n; ++j) {
      double want = accumulate == Accumulate::yes ? before.at(i, j) : 0.0, size = std::abs(want);
      for (std::int64_t l = 0; l < c.k; ++l) {
        want += a.at(i, l) * b.at(l, j);
        size += std::abs(a.at(i, l) * b.at(l, j));
      }
      const std::int64_t at = i * y.tensor.stride[0] + j;
      const double got = c.out == DType::f32 ? y.values[at] : to_float(y.rounded[at]);
      ASSERT_NEAR(got, want,
                  2 * unit * std::max(std::abs(want), std::sqrt(size)) + 8 * 0x1p-23 * size)
          << c.m << " x " << c.n << " x " << c.k << " at " << i << ", " << j;
    }
  for (std::int64_t i = 0; i < c.m; ++i)
    for (std::int64_t j = c.n; j < c.n + padding; ++j) {
      const std::int64_t at = i * y.tensor.stride[0] + j;
      ASSERT_EQ(y.values[at], before.values[at]) << "padding of row " << i;
      ASSERT_EQ(y.rounded[at].bits, before.rounded[at].bits) << "padding of row " << i;
    }
}

class MatmulTypes : public ::testing::TestWithParam<std::pair<DType, DType>> {};

TEST_P(MatmulTypes, AgreesWithALoopForEveryLayout) {
  const auto [in, out] = GetParam();
  if (in == DType::bf16 && !has_bf16()) GTEST_SKIP() << "needs bf16 products (AVX-512)";
  for (const Case& c : {Case{in, out, 1, 1, 1}, Case{in, out, 1, 33, 70}, Case{in, out, 17, 1, 5},
                        Case{in, out, 7, 13, 1}, Case{in, out, 67, 50, 129}})
    for (const bool a_transposed : {false, true})
      for (const bool b_transposed : {false, true})
        for (const std::int64_t padding : {0, 24})
          for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes})
            check_product(c, a_transposed, b_transposed, padding, accumulate);
}

INSTANTIATE_TEST_SUITE_P(Pairs, MatmulTypes,
                         ::testing::Values(std::pair{DType::f32, DType::f32},
                                           std::pair{DType::bf16, DType::f32},
                                           std::pair{DType::bf16, DType::bf16}));

TEST(Matmul, SameShapesOnTheSameTeamGiveTheSameBits) {
  const Matrix a(DType::f32, 200, 300, false, 0, 1), b(DType::f32, 300, 100, true, 0, 2);
  Matrix x(DType::f32, 200, 100, false, 0, 3), y(DType::f32, 200, 100, false, 0, 4);
  Stream stream;
  matmul(a.tensor, b.tensor, x.tensor, Accumulate::no, stream);
  matmul(a.tensor, b.tensor, y.tensor, Accumulate::no, stream);
  EXPECT_EQ(x.values, y.values);
}

TEST(Matmul, RunsInsideParallelForOnThatThread) {
  const Matrix a(DType::f32, 40, 30, false, 0, 1), b(DType::f32, 30, 20, false, 0, 2);
  std::vector<Matrix> results(8, Matrix(DType::f32, 40, 20, false, 0, 3));
  for (Matrix& result : results)
    result.tensor.data = reinterpret_cast<std::byte*>(result.values.data());
  const int before = thread_count();
  set_thread_count(3);
  parallel_items(8, [&](std::int64_t i) {
    Stream stream;
    matmul(a.tensor, b.tensor, results[i].tensor, Accumulate::no, stream);
  });
  EXPECT_EQ(thread_count(), 3) << "a product must not change its caller's team";
  set_thread_count(before);
  for (const Matrix& result : results) EXPECT_EQ(result.values, results[0].values);
  EXPECT_NE(results[0].values, Matrix(DType::f32, 40, 20, false, 0, 3).values);
}

TEST(Matmul, RefusesShapesThatDoNotFit) {
  const Matrix a(DType::f32, 4, 5, false, 0, 1), b(DType::f32, 6, 3, false, 0, 2),
      y(DType::f32, 4, 3, false, 0, 3);
  const Matrix turned(DType::f32, 4, 3, true, 0, 3), fits(DType::f32, 5, 3, false, 0, 3);
  const Matrix coarse(DType::bf16, 5, 3, false, 0, 3);
  Stream stream;
  EXPECT_THROW(matmul(a.tensor, b.tensor, y.tensor, Accumulate::no, stream), LogicError);
  EXPECT_THROW(matmul(a.tensor, coarse.tensor, y.tensor, Accumulate::no, stream), LogicError);
  EXPECT_THROW(matmul(a.tensor, fits.tensor, turned.tensor, Accumulate::no, stream), LogicError);
  EXPECT_NO_THROW(matmul(a.tensor, fits.tensor, y.tensor, Accumulate::no, stream));
}

}  // namespace
}  // namespace ballot::test
