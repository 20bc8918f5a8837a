// The fast tally is the slow one, whatever the voters, blocks and chunks.
#include "collectives/tally.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <random>

#include "core/error.h"
#include "core/parallel.h"
#include "kernel_versions.h"
#include "random_ballots.h"

namespace ballot {
namespace {

using test::ChunkBallots;
using test::ChunkVerdict;
using test::Mood;

void expect_equal(const ChunkVerdict& a, const ChunkVerdict& b) {
  ASSERT_EQ(a.bits, b.bits);
  ASSERT_EQ(a.held_blocks, b.held_blocks);
  ASSERT_EQ(a.held_elements, b.held_elements);
  ASSERT_EQ(a.statistics.elements, b.statistics.elements);
  ASSERT_EQ(a.statistics.ties, b.statistics.ties);
  ASSERT_EQ(a.statistics.unanimous, b.statistics.unanimous);
  ASSERT_EQ(a.statistics.held_blocks, b.statistics.held_blocks);
  ASSERT_EQ(a.statistics.blocks, b.statistics.blocks);
  ASSERT_EQ(a.statistics.agreed, b.statistics.agreed);
  ASSERT_EQ(a.statistics.compared, b.statistics.compared);
  ASSERT_EQ(a.by_segment, b.by_segment);
}

// The same with its voters in the opposite order.
SegmentAgreement reversed(const SegmentAgreement& a) {
  SegmentAgreement b(a.segments(), a.voters());
  for (std::size_t s = 0; s < a.segments(); ++s)
    for (std::size_t v = 0; v < a.voters(); ++v)
      b.add(s, a.voters() - 1 - v, a.agreed(s, v), a.compared(s, v));
  return b;
}

// What tensors add up to is what the chunk has.
void expect_sums(const ChunkVerdict& verdict) {
  for (std::size_t v = 0; v < verdict.statistics.agreed.size(); ++v) {
    std::int64_t agreed = 0, compared = 0;
    for (std::size_t s = 0; s < verdict.by_segment.segments(); ++s) {
      agreed += verdict.by_segment.agreed(s, v);
      compared += verdict.by_segment.compared(s, v);
    }
    ASSERT_EQ(agreed, verdict.statistics.agreed[v]);
    ASSERT_EQ(compared, verdict.statistics.compared[v]);
  }
}

ChunkVerdict run(const BallotLayout& layout, const BallotChunk& chunk,
                 const std::vector<std::unique_ptr<Ballot>>& ballots, const TallyOptions& options,
                 bool slow = false) {
  ChunkVerdict verdict(chunk, options.ties);
  const ChunkBallots parts(ballots, chunk);
  verdict.by_segment = SegmentAgreement(layout.segments().size(), ballots.size());
  (slow ? tally_reference : tally)(layout, chunk, parts.parts, options, verdict.part(),
                                   verdict.statistics, &verdict.by_segment);
  return verdict;
}

class TallyOfVoters : public testing::TestWithParam<int> {};

TEST_P(TallyOfVoters, EqualsItsReferenceOnRandomLayoutsMoodsChunksAndTieRules) {
  const int voters = GetParam();
  std::mt19937_64 random(static_cast<std::uint64_t>(voters));
  const int trials = voters > 100 ? 2 : 6;
  for (int trial = 0; trial < trials; ++trial) {
    const BallotLayout layout = test::random_layout(random);
    for (const Mood mood : {Mood::random, Mood::unanimous, Mood::silent}) {
      const auto ballots = test::random_ballots(layout, voters, mood, random);
      for (const Ties ties : {Ties::coin, Ties::hold}) {
        const TallyOptions options{.seed = test::kSeed, .step = trial, .ties = ties};
        const int owners = static_cast<int>(1 + random() % 4),
                  owner = static_cast<int>(random() % 4) % owners;
        const BallotChunk chunk = layout.chunk(owner, owners);
        const ChunkVerdict slow = run(layout, chunk, ballots, options, true);
        expect_sums(slow);
        test::for_each_kernel_version(
            [&] { expect_equal(run(layout, chunk, ballots, options), slow); });
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tally, TallyOfVoters,
                         testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,
                                         29, 30, 31, 33, 64, 300, 1024));

TEST(Tally, CountsEveryPossibleCountRight) {
  // Element i has i negatives of 64 voters: the majority begins at 33, 32 is the tie.
  const BallotLayout layout = test::make_layout({{1, 64}});
  std::vector<std::unique_ptr<Ballot>> ballots;
  for (int v = 0; v < 64; ++v) {
    ballots.push_back(std::make_unique<Ballot>(layout));
    for (int i = v + 1; i < 64; ++i) ballots.back()->bits().words()[0] |= std::uint64_t{1} << i;
  }
  const ChunkVerdict verdict = run(layout, layout.chunk(0, 1), ballots, {.ties = Ties::hold});
  EXPECT_EQ(verdict.bits[0], ~std::uint64_t{0} << 33);
  EXPECT_EQ(verdict.held_elements[0], std::uint64_t{1} << 32);
  EXPECT_EQ(verdict.statistics.ties, 1);
  EXPECT_EQ(verdict.statistics.unanimous, 1);  // element 0
}

TEST(Tally, TilesOfOneMatrixAndOfManySmallOnesGiveTheSameAsTheReference) {
  // Several tiles of 32768 elements: whole ones, cut ones, ones that many tensors share.
  std::mt19937_64 random(10);
  std::vector<std::vector<std::int64_t>> small;
  for (std::int64_t i = 0; i < 90; ++i) small.push_back({1 + i % 3, 64 * (1 + i % 9)});
  for (const BallotLayout& layout :
       {test::make_layout({{150, 512}}), test::make_layout({{70, 1000}}), test::make_layout(small)})
    for (const Mood mood : {Mood::random, Mood::unanimous, Mood::silent}) {
      const auto ballots = test::random_ballots(layout, 4, mood, random);
      for (int owner = 0; owner < 3; ++owner) {
        const BallotChunk chunk = layout.chunk(owner, 3);
        const ChunkVerdict slow = run(layout, chunk, ballots, {.ties = Ties::hold}, true);
        test::for_each_kernel_version(
            [&] { expect_equal(run(layout, chunk, ballots, {.ties = Ties::hold}), slow); });
      }
    }
}

TEST(Kernels, ThePortableVersionIsAlwaysThereAndTheLast) {
  EXPECT_EQ(kernel_version(kernel_versions() - 1).name, std::string("portable"));
  EXPECT_THROW(kernel_version(kernel_versions()), LogicError);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v3")) {
    EXPECT_GT(kernel_versions(), 1u);
  }
#endif
}

TEST(Tally, PermutingVotersPermutesOnlyTheirAgreement) {
  std::mt19937_64 random(11);
  for (int trial = 0; trial < 20; ++trial) {
    const BallotLayout layout = test::random_layout(random);
    auto ballots = test::random_ballots(layout, 2 + trial % 7,
                                        trial % 2 ? Mood::random : Mood::silent, random);
    const ChunkVerdict before = run(layout, layout.chunk(0, 1), ballots, {.step = trial});
    std::ranges::reverse(ballots);
    ChunkVerdict after = run(layout, layout.chunk(0, 1), ballots, {.step = trial});
    std::ranges::reverse(after.statistics.agreed);
    std::ranges::reverse(after.statistics.compared);
    after.by_segment = reversed(after.by_segment);
    expect_equal(before, after);
  }
}

TEST(Tally, ChunkingChangesNothing) {
  std::mt19937_64 random(12);
  for (int trial = 0; trial < 20; ++trial) {
    const BallotLayout layout = test::random_layout(random);
    const auto ballots = test::random_ballots(layout, 1 + trial % 6,
                                              trial % 2 ? Mood::random : Mood::silent, random);
    const TallyOptions options{.seed = 5, .step = trial, .ties = Ties::hold};
    const ChunkVerdict whole = run(layout, layout.chunk(0, 1), ballots, options);
    for (const int owners : {2, 3, 7, 40}) {
      ChunkVerdict joined(layout.chunk(0, 1), Ties::hold);
      std::ranges::fill(joined.held_blocks, 0);
      joined.statistics.agreed.resize(ballots.size());
      joined.statistics.compared.resize(ballots.size());
      joined.by_segment = SegmentAgreement(layout.segments().size(), ballots.size());
      for (int owner = 0; owner < owners; ++owner) {
        const BallotChunk chunk = layout.chunk(owner, owners);
        const ChunkVerdict part = run(layout, chunk, ballots, options);
        std::ranges::copy(part.bits, joined.bits.begin() + chunk.begin / 64);
        std::ranges::copy(part.held_elements, joined.held_elements.begin() + chunk.begin / 64);
        copy_bits(part.held_blocks.data(), 0, joined.held_blocks.data(), chunk.first_block,
                  chunk.last_block - chunk.first_block);
        joined.statistics.elements += part.statistics.elements;
        joined.statistics.ties += part.statistics.ties;
        joined.statistics.unanimous += part.statistics.unanimous;
        joined.statistics.held_blocks += part.statistics.held_blocks;
        joined.statistics.blocks += part.statistics.blocks;
        for (std::size_t v = 0; v < ballots.size(); ++v) {
          joined.statistics.agreed[v] += part.statistics.agreed[v];
          joined.statistics.compared[v] += part.statistics.compared[v];
        }
        joined.by_segment.add(part.by_segment);
      }
      expect_equal(joined, whole);
    }
  }
}

TEST(Tally, NumberOfThreadsChangesNothing) {
  std::mt19937_64 random(13);
  const BallotLayout layout = test::make_layout({{300, 576}, {200, 960}, {100, 700}});
  const auto ballots = test::random_ballots(layout, 5, Mood::silent, random);
  const int threads = thread_count();
  set_thread_count(1);
  const ChunkVerdict one = run(layout, layout.chunk(0, 1), ballots, {});
  set_thread_count(4);
  const ChunkVerdict four = run(layout, layout.chunk(0, 1), ballots, {});
  set_thread_count(threads);
  expect_equal(one, four);
}

TEST(Tally, TieIsTheSameCoinOnEveryReplicaAndFair) {
  // Two voters that always disagree: every element is a coin.
  const BallotLayout layout = test::make_layout({{2000, 512}});
  std::mt19937_64 random(14);
  auto ballots = test::random_ballots(layout, 2, Mood::unanimous, random);
  for (std::int64_t w = 0; w < layout.extent() / 64; ++w)
    ballots[1]->bits().words()[w] = ~ballots[0]->bits().words()[w];
  const ChunkVerdict a = run(layout, layout.chunk(0, 1), ballots, {.seed = 3, .step = 4});
  std::swap(ballots[0], ballots[1]);
  const ChunkVerdict b = run(layout, layout.chunk(0, 1), ballots, {.seed = 3, .step = 4});
  EXPECT_EQ(a.bits, b.bits);
  EXPECT_EQ(a.statistics.ties, layout.count());
  EXPECT_EQ(a.bits[7], tie_coins(3, 4, layout.segments()[0].arena_offset / 64 + 7));
  std::int64_t ones = 0;
  for (const std::uint64_t word : a.bits) ones += std::popcount(word);
  EXPECT_NEAR(static_cast<double>(ones), 512'000.0, 5 * 506);  // five standard deviations
  EXPECT_NE(a.bits, run(layout, layout.chunk(0, 1), ballots, {.seed = 3, .step = 5}).bits);
}

TEST(Tally, RowsNobodySawAreHeldAndNoOtherBlockIs) {
  std::mt19937_64 random(15);
  for (const std::int64_t cols : {192, 576, 768}) {
    const BallotLayout layout = test::make_layout({{40, cols}});
    const BallotSegment& s = layout.segments()[0];
    std::vector<float> x(static_cast<std::size_t>(s.extent()));
    for (float& value : x)
      value = static_cast<float>(random() % 3) - 1.0f;  // stale momentum, with zeros
    std::vector<std::unique_ptr<Ballot>> ballots;
    std::vector<bool> seen(40);
    for (int voter = 0; voter < 3; ++voter) {
      std::vector<std::uint8_t> silent(40);
      for (std::size_t row = 0; row < 40; ++row) {
        silent[row] = random() % 4 != 0;
        if (silent[row] == 0) seen[row] = true;
      }
      ballots.push_back(std::make_unique<Ballot>(layout));
      test::cast(x, s, {.voter = voter}, silent, *ballots.back());
    }
    const ChunkVerdict verdict = run(layout, layout.chunk(0, 1), ballots, {});
    for (std::int64_t block = 0; block < s.blocks(); ++block) {
      const bool held =
          (verdict.held_blocks[static_cast<std::size_t>(block / 64)] >> (block % 64)) & 1u;
      EXPECT_EQ(held, !seen[static_cast<std::size_t>(block * s.block / cols)])
          << "block " << block << ", cols " << cols;
    }
    EXPECT_GT(verdict.statistics.held_blocks, 0);
    EXPECT_LT(verdict.statistics.held_blocks, s.blocks());
  }
}

TEST(Tally, BitsOfAbstainingBlocksAndOfPaddingDoNotCount) {
  const BallotLayout layout = test::make_layout({{2, 100, 128}});  // two blocks of 128
  std::vector<std::unique_ptr<Ballot>> ballots;
  for (int v = 0; v < 3; ++v) {
    ballots.push_back(std::make_unique<Ballot>(layout));
    std::ranges::fill(ballots.back()->bits().span(), v == 0 ? 0 : ~std::uint64_t{0});
  }
  ballots[1]->abstentions().words()[0] = 1;
  ballots[2]->abstentions().words()[0] = 1;
  const ChunkVerdict verdict = run(layout, layout.chunk(0, 1), ballots, {});
  EXPECT_EQ(verdict.bits[0], 0u);
  EXPECT_EQ(verdict.bits[2], ~std::uint64_t{0});
  EXPECT_EQ(verdict.bits[3], low_bits(36));
  for (std::size_t w = 4; w < 8; ++w) EXPECT_EQ(verdict.bits[w], 0u);  // after the segment
  EXPECT_EQ(verdict.statistics.elements, 200);
}

TEST(Tally, AgreementOfRandomVotersIsOneHalf) {
  std::mt19937_64 random(16);
  for (const int voters : {2, 3, 4, 5, 8}) {
    const BallotLayout layout = test::make_layout({{1000, 512}});
    const auto ballots = test::random_ballots(layout, voters, Mood::random, random);
    const VoteStatistics statistics = run(layout, layout.chunk(0, 1), ballots, {}).statistics;
    for (std::size_t v = 0; v < ballots.size(); ++v) {
      ASSERT_GT(statistics.compared[v], 4000);
      EXPECT_NEAR(
          static_cast<double>(statistics.agreed[v]) / static_cast<double>(statistics.compared[v]),
          0.5, 0.018);
    }
  }
}

TEST(Tally, RefusesWhatItCannotCount) {
  const BallotLayout layout = test::make_layout({{1, 64}});
  ChunkVerdict verdict(layout.chunk(0, 1), Ties::coin);
  EXPECT_THROW(tally(layout, layout.chunk(0, 1), {}, {}, verdict.part(), verdict.statistics),
               LogicError);
  const std::vector<BallotPart> many(1025);
  EXPECT_THROW(tally(layout, layout.chunk(0, 1), many, {}, verdict.part(), verdict.statistics),
               LogicError);
}

}  // namespace
}  // namespace ballot
