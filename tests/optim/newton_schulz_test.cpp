// Newton-Schulz against the float64 truth, in fp32 and bf16, wide and tall, with padding.

#include "optim/newton_schulz.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "optim/newton_schulz_reference.h"
#include "tests/optim/matrices.h"

namespace ballot {
namespace {

struct Shape {
  std::int64_t rows, cols;
};
constexpr Shape kShapes[] = {{1, 1},   {1, 50},  {50, 1},   {24, 40},
                             {40, 24}, {33, 33}, {64, 193}, {200, 72}};

TEST(NewtonSchulz, MatchesFloat64InEveryShape) {
  Stream stream;
  NewtonSchulz newton_schulz(72, 200 * 72, DType::f32);
  for (const Shape shape : kShapes)
    for (const double scale : {1.0, 1e-4, 1e4})
      for (const auto& [steps, set] : {std::pair{1, Coefficients::keller},
                                       {2, Coefficients::keller},
                                       {5, Coefficients::keller},
                                       {1, Coefficients::polar_express},
                                       {5, Coefficients::polar_express},
                                       {7, Coefficients::polar_express}}) {
        PaddedMatrix x(shape.rows, shape.cols);
        fill(x, random_normal(shape.rows * shape.cols, 11, scale));
        const std::vector<float> start = elements(x);
        const std::vector<double> truth = newton_schulz_reference(
            std::vector<double>(start.begin(), start.end()), shape.rows, shape.cols, steps, set);
        newton_schulz.orthogonalize(x, steps, stream, set);
        const std::vector<float> result = elements(x);
        for (std::size_t i = 0; i < truth.size(); ++i)
          ASSERT_NEAR(result[i], truth[i], set == Coefficients::keller ? 5e-6 : 2e-5)
              << shape.rows << "x" << shape.cols << " scale " << scale;
        EXPECT_TRUE(x.padding_is_zero());
      }
}

TEST(NewtonSchulz, SingularValuesComeNearOne) {
  Stream stream;
  NewtonSchulz newton_schulz(16, 16 * 400, DType::f32);
  PaddedMatrix x(16, 400);
  fill(x, random_normal(16 * 400, 2));
  newton_schulz.orthogonalize(x, 5, stream);
  const std::vector<float> y = elements(x);
  for (int i = 0; i < 16; ++i) {
    double square = 0;
    for (int k = 0; k < 400; ++k) square += static_cast<double>(y[i * 400 + k]) * y[i * 400 + k];
    EXPECT_GT(square, 0.6 * 0.6);
    EXPECT_LT(square, 1.25 * 1.25);
  }
}

// Where each set brings a singular value: docs/optimizers.md.
TEST(NewtonSchulz, TheSetsBringSingularValuesWhereTheirSourcesSay) {
  const auto image = [](Coefficients set, double value) {
    value /= normalization_of(set).factor;
    for (int step = 0; step < 5; ++step) {
      const Quintic q = quintic_of(set, step);
      value *= q.a + value * value * (q.b + value * value * static_cast<double>(q.c));
    }
    return value;
  };
  for (double value = 0.01; value <= 1; value += 1e-4) {
    EXPECT_GT(image(Coefficients::keller, value), 0.67);
    EXPECT_LT(image(Coefficients::keller, value), 1.14);
  }
  for (double value = 0.001; value <= 1; value += 1e-4) {
    EXPECT_GT(image(Coefficients::polar_express, value), 0.84);
    EXPECT_LT(image(Coefficients::polar_express, value), 1.15);
  }
  EXPECT_NEAR(image(Coefficients::keller, 1e-6) * 1e6, 485, 5);
  EXPECT_NEAR(image(Coefficients::polar_express, 1e-6) * 1e6 * 1.02, 990, 10);
}

TEST(NewtonSchulz, AZeroMatrixStaysZero) {
  Stream stream;
  for (const DType type : {DType::f32, DType::bf16}) {
    if (type == DType::bf16 && !has_bf16()) continue;
    NewtonSchulz newton_schulz(8, 80, type);
    PaddedMatrix x(8, 10);
    newton_schulz.orthogonalize(x, 5, stream);
    for (const float e : elements(x)) EXPECT_EQ(e, 0.0f);
  }
}

TEST(NewtonSchulz, ARowOfZerosStaysZero) {
  Stream stream;
  NewtonSchulz newton_schulz(8, 8 * 24, DType::f32);
  PaddedMatrix x(8, 24);
  fill(x, random_normal(8 * 24, 4));
  std::fill_n(x.view().f32() + 3 * x.view().stride[0], 24, 0.0f);
  newton_schulz.orthogonalize(x, 5, stream);
  for (int j = 0; j < 24; ++j) EXPECT_EQ(x.view().f32()[3 * x.view().stride[0] + j], 0.0f);
}

TEST(NewtonSchulz, Fp32HasTheSameBitsOnEveryTeam) {
  Stream stream;
  NewtonSchulz newton_schulz(96, 96 * 200, DType::f32);
  std::vector<float> results[2];
  for (int threads = 1; threads <= 2; ++threads) {
    Team team(threads);
    PaddedMatrix x(96, 200);
    fill(x, random_normal(96 * 200, 6));
    newton_schulz.orthogonalize(x, 5, stream);
    results[threads - 1] = elements(x);
  }
  EXPECT_EQ(results[0], results[1]);
}

// A bf16 product rounds its inputs to 8 bits, so directions near zero may fall on the other side.
TEST(NewtonSchulz, Bf16FlipsFewSigns) {
  if (!has_bf16()) GTEST_SKIP() << "bf16 products need AVX-512";
  Stream stream;
  NewtonSchulz newton_schulz(96, 96 * 256, DType::bf16);
  std::int64_t flipped = 0, count = 0;
  double worst = 0;
  for (const Shape shape : {Shape{96, 256}, {256, 96}, {96, 96}, {64, 200}}) {
    PaddedMatrix x(shape.rows, shape.cols);
    fill(x, random_normal(shape.rows * shape.cols, 21, 1e-3));
    const std::vector<float> start = elements(x);
    const std::vector<double> truth = newton_schulz_reference(
        std::vector<double>(start.begin(), start.end()), shape.rows, shape.cols, 5);
    newton_schulz.orthogonalize(x, 5, stream);
    const std::vector<float> result = elements(x);
    for (std::size_t i = 0; i < truth.size(); ++i) {
      flipped += (result[i] < 0) != (truth[i] < 0);
      worst = std::max(worst, std::abs(result[i] - truth[i]));
    }
    count += static_cast<std::int64_t>(truth.size());
    EXPECT_TRUE(x.padding_is_zero());
  }
  const double share = static_cast<double>(flipped) / static_cast<double>(count);
  RecordProperty("flipped_share", std::to_string(share));
  fmt::print("bf16 Newton-Schulz: {:.3f} % of {} signs flipped, largest error {:.4f}\n",
             100 * share, count, worst);
  EXPECT_LT(share, 0.01);
  EXPECT_GT(flipped, 0);  // else this did not run in bf16
}

TEST(NewtonSchulz, RefusesMatricesLargerThanItsScratch) {
  Stream stream;
  NewtonSchulz newton_schulz(8, 80, DType::f32);
  PaddedMatrix side(9, 9), count(8, 11);
  EXPECT_THROW(newton_schulz.orthogonalize(side, 5, stream), LogicError);
  EXPECT_THROW(newton_schulz.orthogonalize(count, 5, stream), LogicError);
}

}  // namespace
}  // namespace ballot
