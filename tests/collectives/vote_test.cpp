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
    const Ballot& mine = *ballots[static_cast<std::size_t>(transport.rank())];
    const auto vote = make_vote(mine, transport, {.seed = 1}, test::soon());
    const Verdict& verdict = vote->elect(5, test::soon());
    const std::vector<std::uint64_t> first(verdict.bits.span().begin(), verdict.bits.span().end());
    vote->elect(6, test::soon());
    EXPECT_FALSE(std::ranges::equal(verdict.bits.span(), first));  // other coins
    vote->elect(5, test::soon());
    EXPECT_TRUE(std::ranges::equal(verdict.bits.span(), first));
  });
}

TEST(Vote, OfNothingElectsNothing) {
  const BallotLayout layout(std::vector<BallotSegment>{});
  run_loopback(3, [&](Transport& transport) {
    const Ballot mine(layout);
    const auto vote = make_vote(mine, transport, {}, test::soon());
    EXPECT_EQ(vote->elect(0, test::soon()).bits.bit_count(), 0);
  });
}

TEST(Vote, WithMoreRanksThanChunksLeavesSomeWithoutWork) {
  const BallotLayout layout = test::make_layout({{1, 64}, {1, 64}});
  run_loopback(5, [&](Transport& transport) {
    std::mt19937_64 random(32);
    const auto ballots = test::random_ballots(layout, 5, test::Mood::random, random);
    const test::ChunkVerdict truth = test::whole_reference(layout, ballots, {});
    const auto vote = make_vote(*ballots[static_cast<std::size_t>(transport.rank())], transport, {},
                                test::soon());
    const Verdict& verdict = vote->elect(0, test::soon());
    EXPECT_TRUE(std::ranges::equal(verdict.bits.span(), truth.bits));
    EXPECT_TRUE(std::ranges::equal(verdict.held_blocks.span(), truth.held_blocks));
  });
}

// Every rank is told, before anything is elected, what differs and both values.
void expect_refused(const std::vector<VoteOptions>& options, const std::string& why) {
  const BallotLayout layout = test::make_layout({{2, 64}});
  run_loopback(static_cast<int>(options.size()), [&](Transport& transport) {
    const Ballot mine(layout);
    const std::string message = test::message_of<ConfigError>([&] {
      make_vote(mine, transport, options[static_cast<std::size_t>(transport.rank())], test::soon());
    });
    EXPECT_THAT(message, testing::HasSubstr(why));
    transport.barrier(test::soon());  // so that nobody sees the other leave first
  });
}

TEST(Vote, OfRanksThatDisagreeIsRefusedWithBothValues) {
  expect_refused({{}, {.ties = Ties::hold}}, "ties: coin on rank 0, hold on rank 1");
  expect_refused({{}, {}, {.seed = 5}}, "seed: 0 on rank 0, 5 on rank 2");
  expect_refused({{}, {.schedule = Schedule::gathered}},
                 "schedule: sharded on rank 0, gathered on rank 1");
  expect_refused({{}, {.members = 2}}, "grouping: members 1, node size 1");
}

TEST(Vote, OfRanksWithOtherParametersIsRefusedWithBothValues) {
  const BallotLayout layouts[] = {test::make_layout({{2, 64}}), test::make_layout({{3, 64}})};
  run_loopback(2, [&](Transport& transport) {
    const Ballot mine(layouts[transport.rank()]);
    const std::string message =
        test::message_of<ConfigError>([&] { make_vote(mine, transport, {}, test::soon()); });
    EXPECT_THAT(message, testing::HasSubstr("parameters: 128 on rank 0, 192 on rank 1"));
    transport.barrier(test::soon());
  });
}

TEST(Vote, WithOptionsThatDoNotFitIsRefused) {
  expect_refused({{.members = 2}, {.members = 2}, {.members = 2}},
                 "members = 2: 3 workers cannot be cut into voters of 2");
  expect_refused({{.node_size = 2}, {.node_size = 2}},
                 "node_size = 2 needs schedule = hierarchical, not sharded");
}

TEST(Vote, WhoseBallotIsNotReleasedNamesTheTensor) {
  const BallotLayout layout = test::make_layout({{2, 64}, {3, 64}});
  run_loopback(1, [&](Transport& transport) {
    const Ballot mine(layout);
    const auto vote = make_vote(mine, transport, {}, test::soon());
    vote->begin(0);
    vote->release(0);
    EXPECT_THAT(test::message_of<LogicError>(
                    [&] { vote->finish(Deadline::in(std::chrono::milliseconds(5))); }),
                testing::HasSubstr("never released"));
    vote->release(1);
    vote->finish(test::soon());
    EXPECT_THROW(vote->release(1), LogicError);
  });
}

}  // namespace
}  // namespace ballot
