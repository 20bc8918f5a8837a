// Rotary positions: the reference's angles, and a rotation that the inverse undoes.
#include <gtest/gtest.h>

#include "models/ops/rope.h"
#include "models/ops/rope_reference.h"
#include "tests/models/ops_support.h"

namespace ballot::test {
namespace {

TEST(Rope, RotatesLikeTheReferenceAndBack) {
  constexpr double kTheta = 10000.0;
  constexpr std::int64_t kRows = 20, kFirst = 300;
  for (const std::int64_t d : {2, 16, 34, 64}) {
    Stream stream;
    RopeTable table(rope_frequencies(d, kTheta));
    table.extend(17, stream);
    table.extend(kFirst + kRows, stream);  // grows in two steps
    const std::vector<double> x = random_values(kRows * d, 1);
    std::vector<double> want, inverse;
    for (std::int64_t n = 0; n < kRows; ++n) {
      const std::vector<double> row(x.begin() + n * d, x.begin() + (n + 1) * d);
      for (const double value : reference::rope(row, kFirst + n, kTheta))
        want.push_back(0.5 * value);
      for (const double value : reference::rope(row, -(kFirst + n), kTheta))
        inverse.push_back(0.5 * value);
    }
    const OwnedTensor source = to_tensor(x, kRows), target(DType::f32, {kRows, d});
    rope_rows(source.view().f32(), d, table.cosines(kFirst), table.sines(kFirst), d / 2, kRows,
              0.5f, target.view().f32(), d);
    EXPECT_LT(relative_error(from_tensor(target), want), 2e-7) << d;
    rope_inverse_rows(source.view().f32(), d, table.cosines(kFirst), table.sines(kFirst), d / 2,
                      kRows, 0.5f, target.view().f32(), d);
    EXPECT_LT(relative_error(from_tensor(target), inverse), 2e-7) << d;
    const OwnedTensor coarse(DType::bf16, {kRows, d});
    rope_inverse_rows(source.view().f32(), d, table.cosines(kFirst), table.sines(kFirst), d / 2,
                      kRows, 0.5f, coarse.view().bf16(), d);
    EXPECT_LT(relative_error(from_tensor<bfloat16>(coarse), inverse), 0x1p-8) << d;
  }
}

// Llama 3.1's own numbers: some pairs stay, some turn 8 times slower, some in between.
TEST(Rope, ScaledFrequenciesAreThoseOfTheReference) {
  for (const RopeScaling& scaling :
       {RopeScaling{RopeScaling::Type::linear, 4.0}, RopeScaling{RopeScaling::Type::llama3, 8.0},
        RopeScaling{RopeScaling::Type::llama3, 32.0, 1.0, 4.0, 8192},
        RopeScaling{RopeScaling::Type::llama3, 2.0, 0.5, 3.0, 100}})
    for (const std::int64_t d : {2, 16, 64, 128}) {
      const std::vector<double> found = rope_frequencies(d, 500000.0, scaling);
      ASSERT_EQ(found.size(), static_cast<std::size_t>(d / 2));
      for (std::size_t i = 0; i < found.size(); ++i) {
        const double want =
            reference::rope_frequency(i, static_cast<std::size_t>(d), 500000.0, scaling);
        EXPECT_NEAR(found[i] / want, 1, 1e-12) << d << " " << i;
      }
    }
  const std::vector<double> plain = rope_frequencies(128, 500000.0),
                            llama = rope_frequencies(128, 500000.0, {RopeScaling::Type::llama3, 8});
  EXPECT_EQ(llama.front(), plain.front());
  EXPECT_DOUBLE_EQ(llama.back(), plain.back() / 8);
  int between = 0;
  for (std::size_t i = 0; i < plain.size(); ++i)
    between += llama[i] < plain[i] && llama[i] > plain[i] / 8 * 1.000001;
  EXPECT_GT(between, 3);
}

}  // namespace
}  // namespace ballot::test
