// Biases against their reference: strided outputs, both types, any team.
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "models/ops/bias.h"
#include "models/ops/bias_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

constexpr std::int64_t kRows = 41, kCols = 150, kFirst = 7, kWide = 170;

// Columns [kFirst, kFirst + kCols) of a wider matrix.
template <class T>
Tensor middle(const OwnedTensor& wide) {
  Tensor y = wide.view();
  y.data += kFirst * static_cast<std::int64_t>(sizeof(T));
  y.extent[1] = kCols;
  return y;
}

template <class T>
void expect_bias(double tolerance) {
  const std::vector<double> x = random_values(kRows * kWide, 1, 1.0, true),
                            b = random_values(kCols, 2);
  const OwnedTensor wide = to_tensor<T>(x, kRows), bias = to_tensor(b, 1);
  add_bias(middle<T>(wide), bias);
  const std::vector<double> got = from_tensor<T>(wide);
  for (std::int64_t n = 0; n < kRows; ++n) {
    std::vector<double> row(x.begin() + n * kWide + kFirst, x.begin() + n * kWide + kFirst + kCols);
    reference::add_bias(row, b);
    for (std::int64_t c = 0; c < kWide; ++c) {
      const bool inside = c >= kFirst && c < kFirst + kCols;
      const double want = inside ? row[static_cast<std::size_t>(c - kFirst)] : x[n * kWide + c];
      EXPECT_NEAR(got[n * kWide + c], want, inside ? tolerance : 0.0) << n << ", " << c;
    }
  }
}

TEST(Bias, IsAddedToItsColumnsOnly) {
  expect_bias<float>(1e-7);
  expect_bias<bfloat16>(0x1p-7);
}

template <class T>
void expect_gradient() {
  const std::vector<double> dy = random_values(kRows * kWide, 3, 1.0, true);
  const OwnedTensor wide = to_tensor<T>(dy, kRows);
  std::vector<double> want(kCols);
  for (std::int64_t n = 0; n < kRows; ++n)
    for (std::int64_t c = 0; c < kCols; ++c) want[c] += dy[n * kWide + kFirst + c];
  const int before = thread_count();
  std::vector<std::vector<double>> results;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    const OwnedTensor dbias = to_tensor(random_values(kCols, 4), 1);
    bias_gradient(middle<T>(wide), dbias, Accumulate::no);
    results.push_back(from_tensor(dbias));
    EXPECT_LT(relative_error(results.back(), want), 1e-7);
    bias_gradient(middle<T>(wide), dbias, Accumulate::yes);
    std::vector<double> twice = want;
    for (double& value : twice) value *= 2;
    EXPECT_LT(relative_error(from_tensor(dbias), twice), 1e-7);
  }
  set_thread_count(before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST(Bias, GradientIsTheSumOfRowsWhateverTheTeam) {
  expect_gradient<float>();
  expect_gradient<bfloat16>();
}

}  // namespace
}  // namespace ballot::test
