// The sharded vote over threads: the verdict of all ballots, at the price of the table.
#include "collectives/vote.h"

#include <gtest/gtest.h>

#include "collectives/transport/loopback_transport.h"
#include "rank_suite.h"

namespace ballot {
namespace {

class VoteOfRanks : public testing::TestWithParam<int> {};

TEST_P(VoteOfRanks, EqualsTheReferenceOfAllBallots) {
  run_loopback(GetParam(), test::vote_equals_reference);
}
TEST_P(VoteOfRanks, CostsWhatTheTableSays) {
  run_loopback(GetParam(), test::vote_costs_what_the_table_says);
}

INSTANTIATE_TEST_SUITE_P(Vote, VoteOfRanks, testing::Values(1, 2, 3, 4, 8, 13));

TEST(Vote, ElectsTheSameBitsWhenHeldAgain) {
  std::mt19937_64 random(31);
  const BallotLayout layout = test::random_layout(random);
  const auto ballots = test::random_ballots(layout, 2, test::Mood::random, random);
  run_loopback(2, [&](Transport& transport) {
    Vote vote(layout, transport, {.seed = 1});
    const Ballot& mine = *ballots[static_cast<std::size_t>(transport.rank())];
    const Verdict& verdict = vote.elect(mine, 5, test::soon());
    const std::vector<std::uint64_t> first(verdict.bits.span().begin(), verdict.bits.span().end());
    vote.elect(mine, 6, test::soon());
    EXPECT_FALSE(std::ranges::equal(verdict.bits.span(), first));  // other coins
    vote.elect(mine, 5, test::soon());
    EXPECT_TRUE(std::ranges::equal(verdict.bits.span(), first));
  });
}

TEST(Vote, OfNothingElectsNothing) {
  const BallotLayout layout(std::vector<BallotSegment>{});
  run_loopback(3, [&](Transport& transport) {
    Vote vote(layout, transport, {});
    EXPECT_EQ(vote.elect(Ballot(layout), 0, test::soon()).bits.bit_count(), 0);
  });
}

TEST(Vote, WithMoreRanksThanChunksLeavesSomeWithoutWork) {
  const BallotLayout layout = test::make_layout({{1, 64}, {1, 64}});
  run_loopback(5, [&](Transport& transport) {
    std::mt19937_64 random(32);
    const auto ballots = test::random_ballots(layout, 5, test::Mood::random, random);
    const test::ChunkVerdict truth = test::whole_reference(layout, ballots, {});
    Vote vote(layout, transport, {});
    const Verdict& verdict =
        vote.elect(*ballots[static_cast<std::size_t>(transport.rank())], 0, test::soon());
    EXPECT_TRUE(std::ranges::equal(verdict.bits.span(), truth.bits));
    EXPECT_TRUE(std::ranges::equal(verdict.held_blocks.span(), truth.held_blocks));
  });
}

TEST(Vote, RefusesABallotOfAnotherLayout) {
  const BallotLayout layout = test::make_layout({{2, 64}}), other = test::make_layout({{3, 64}});
  run_loopback(1, [&](Transport& transport) {
    Vote vote(layout, transport, {});
    EXPECT_THROW(vote.elect(Ballot(other), 0, test::soon()), LogicError);
  });
}

}  // namespace
}  // namespace ballot
