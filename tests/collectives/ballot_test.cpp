// Signs, zeros, coins and abstentions of one voter.
#include "collectives/ballot.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "collectives/ballot_reference.h"
#include "core/parallel.h"
#include "kernel_versions.h"
#include "random_ballots.h"

namespace ballot {
namespace {

std::vector<float> random_direction(const BallotSegment& s, double share_of_zeros,
                                    std::mt19937_64& random) {
  std::vector<float> x(static_cast<std::size_t>(s.extent()),
                       1e30f);  // padding: must not be looked at
  std::normal_distribution<float> normal;
  for (std::int64_t row = 0; row < s.rows; ++row)
    for (std::int64_t col = 0; col < s.cols; ++col) {
      const bool zero = std::uniform_real_distribution<>()(random) < share_of_zeros;
      x[static_cast<std::size_t>(row * s.row_stride + col)] =
          zero ? (random() & 1u ? 0.0f : -0.0f) : normal(random);
    }
  return x;
}

void expect_equal(const Ballot& a, const Ballot& b) {
  for (std::int64_t w = 0; w < a.bits().word_count(); ++w)
    ASSERT_EQ(a.bits().words()[w], b.bits().words()[w]) << w;
  for (std::int64_t w = 0; w < a.abstentions().word_count(); ++w)
    ASSERT_EQ(a.abstentions().words()[w], b.abstentions().words()[w]) << w;
}

TEST(CastBallot, EqualsItsReferenceOnRandomShapes) {
  test::for_each_kernel_version([] {
    std::mt19937_64 random(3);
    for (int trial = 0; trial < 60; ++trial) {
      const BallotLayout layout = test::random_layout(random);
      Ballot fast(layout), slow(layout);
      const CastOptions options{.seed = random(),
                                .step = trial,
                                .voter = trial % 5,
                                .abstain_below = trial % 3 == 0 ? 2.0 : 0.0};
      for (const BallotSegment& s : layout.segments()) {
        const auto x = random_direction(s, std::vector{0.0, 0.1, 0.97}[random() % 3], random);
        std::vector<std::uint8_t> silent(trial % 2 == 0 ? 0 : static_cast<std::size_t>(s.rows));
        for (auto& flag : silent) flag = random() % 3 == 0;
        EXPECT_EQ(test::cast(x, s, options, silent, fast),
                  cast_ballot_reference(x.data(), s, options, silent, slow));
      }
      expect_equal(fast, slow);
    }
  });
}

TEST(CastBallot, NumberOfThreadsChangesNothing) {
  std::mt19937_64 random(4);
  const BallotLayout layout = test::make_layout({{700, 576}, {300, 1000}});
  Ballot one(layout), many(layout);
  for (const BallotSegment& s : layout.segments()) {
    const auto x = random_direction(s, 0.01, random);
    const CastOptions options{.seed = 1, .step = 2, .voter = 3, .abstain_below = 2.5};
    const int threads = thread_count();
    set_thread_count(1);
    const std::int64_t abstained = test::cast(x, s, options, {}, one);
    set_thread_count(4);
    EXPECT_EQ(test::cast(x, s, options, {}, many), abstained);
    set_thread_count(threads);
    EXPECT_GT(abstained, 0);
  }
  expect_equal(one, many);
}

TEST(CastBallot, OverwritesWhatAnEarlierStepLeft) {
  std::mt19937_64 random(5);
  const BallotLayout layout = test::make_layout({{5, 100}, {3, 192}, {2, 700}});
  Ballot used(layout), fresh(layout);
  for (const BallotSegment& s : layout.segments()) abstain(s, used);
  for (const BallotSegment& s : layout.segments()) {
    const auto old = random_direction(s, 0.5, random);
    test::cast(old, s, {.step = 1}, {}, used);
  }
  for (const BallotSegment& s : layout.segments()) {
    const auto x = random_direction(s, 0.0, random);
    test::cast(x, s, {.step = 2}, {}, used);
    test::cast(x, s, {.step = 2}, {}, fresh);
  }
  expect_equal(used, fresh);
}

TEST(CastBallot, BothZerosTakeTheSameCoin) {
  const BallotLayout layout = test::make_layout({{1, 64}});
  const BallotSegment& s = layout.segments()[0];
  std::vector<float> positive(64, 0.0f), negative(64, -0.0f);
  positive[5] = negative[5] = 1.0f;  // or the block would abstain
  Ballot a(layout), b(layout);
  EXPECT_EQ(test::cast(positive, s, {.seed = 9}, {}, a), 0);
  EXPECT_EQ(test::cast(negative, s, {.seed = 9}, {}, b), 0);
  expect_equal(a, b);
  const std::uint64_t coins = zero_coins(9, 0, s.arena_offset / 64, 0);
  EXPECT_EQ(a.bits().words()[0], coins & ~(std::uint64_t{1} << 5));
}

TEST(CastBallot, OnlyBlocksOfExactZerosAbstainByDefault) {
  const BallotLayout layout = test::make_layout({{2, 192}});
  const BallotSegment& s = layout.segments()[0];
  std::vector<float> x(static_cast<std::size_t>(s.extent()), -0.0f);
  x[64] = std::numeric_limits<float>::denorm_min();
  x[192] = -1e30f;
  Ballot ballot(layout);
  EXPECT_EQ(test::cast(x, s, {}, {}, ballot), 4);
  EXPECT_EQ(ballot.abstentions().words()[0], 0b110101u);
}

TEST(CastBallot, BlocksBelowTheShareOfTheRmsAbstain) {
  const BallotLayout layout = test::make_layout({{3, 64}});
  std::vector<float> x(192, 1.0f);
  for (std::size_t i = 64; i < 128; ++i)
    x[i] = 0.1f;  // RMS of all: sqrt((128 + 0.64) / 192) = 0.8186
  for (std::size_t i = 128; i < 192; ++i) x[i] = -1.0f;
  Ballot ballot(layout);
  EXPECT_EQ(test::cast(x, layout.segments()[0], {.abstain_below = 0.12}, {}, ballot), 0);
  EXPECT_EQ(test::cast(x, layout.segments()[0], {.abstain_below = 0.13}, {}, ballot), 1);
  EXPECT_EQ(ballot.abstentions().words()[0], 0b010u);
  EXPECT_EQ(ballot.bits().words()[2], ~std::uint64_t{0});
}

TEST(CastBallot, PaddingNeitherVotesNorKeepsABlockFromAbstaining) {
  const BallotLayout layout = test::make_layout({{2, 70, 192}});
  const BallotSegment& s = layout.segments()[0];
  std::vector<float> x(static_cast<std::size_t>(s.extent()), -5.0f);
  for (std::size_t i = 0; i < 70; ++i) x[i] = 0.0f;  // first row: real elements are zero
  Ballot ballot(layout);
  EXPECT_EQ(test::cast(x, s, {}, {}, ballot),
            4);  // row 0 whole, row 1 its last block: all padding
  EXPECT_EQ(ballot.abstentions().words()[0], 0b100111u);
  EXPECT_EQ(ballot.bits().words()[3], ~std::uint64_t{0});
  EXPECT_EQ(ballot.bits().words()[4], 0b111111u);
  EXPECT_EQ(ballot.bits().words()[5], 0u);
}

TEST(CastBallot, ANanVotesByItsSignBit) {
  const BallotLayout layout = test::make_layout({{1, 64}});
  std::vector<float> x(64, 0.0f);
  x[0] = std::copysign(std::numeric_limits<float>::quiet_NaN(), -1.0f);
  Ballot ballot(layout);
  EXPECT_EQ(test::cast(x, layout.segments()[0], {.abstain_below = 1}, {}, ballot), 0);
  EXPECT_TRUE(ballot.bits().get(0));
}

TEST(Abstain, SilencesOneSegmentAndNoNeighbour) {
  const BallotLayout layout = test::make_layout({{3, 64}, {5, 64}, {3, 64}});
  const std::vector<float> x(512, -1.0f);
  Ballot ballot(layout);
  for (const BallotSegment& s : layout.segments()) test::cast(x, s, {}, {}, ballot);
  abstain(layout.segments()[1], ballot);
  EXPECT_EQ(ballot.abstentions().words()[0], 0b000'11111'000u);
  EXPECT_EQ(ballot.bits().words()[8], 0u);
  EXPECT_EQ(ballot.bits().words()[2], ~std::uint64_t{0});
  EXPECT_EQ(ballot.bits().words()[16], ~std::uint64_t{0});
}

// 6.4e6 coins: half of them, within five standard deviations (1265).
void expect_fair(const std::function<std::uint64_t(std::int64_t)>& coins) {
  std::int64_t ones = 0;
  for (std::int64_t i = 0; i < 100'000; ++i) ones += std::popcount(coins(i));
  EXPECT_NEAR(static_cast<double>(ones), 3.2e6, 5 * 1265);
}

TEST(Coins, AreFairAlongWordsStepsAndVoters) {
  expect_fair([](std::int64_t i) { return tie_coins(1, 2, i); });
  expect_fair([](std::int64_t i) { return tie_coins(1, i, 2); });
  expect_fair([](std::int64_t i) { return zero_coins(1, 2, i, 3); });
  expect_fair([](std::int64_t i) { return zero_coins(1, i, 2, 3); });
  expect_fair([](std::int64_t i) { return zero_coins(1, 2, 3, static_cast<int>(i)); });
}

TEST(Coins, OfTwoVotersStepsOrKindsAreIndependent) {
  expect_fair([](std::int64_t i) { return zero_coins(1, 2, i, 0) ^ zero_coins(1, 2, i, 1); });
  expect_fair([](std::int64_t i) { return tie_coins(1, 2, i) ^ zero_coins(1, 2, i, 0); });
  expect_fair([](std::int64_t i) { return tie_coins(1, 2, i) ^ tie_coins(1, 3, i); });
  expect_fair([](std::int64_t i) { return tie_coins(1, 2, i) ^ tie_coins(2, 2, i); });
  expect_fair([](std::int64_t i) { return tie_coins(1, 2, i) ^ tie_coins(1, 2, i + 1); });
}

}  // namespace
}  // namespace ballot
