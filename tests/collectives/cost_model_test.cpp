// The cost model against real votes (bytes exactly), hand-computed times, and what must hold for
// any cluster.
#include "collectives/cost_model.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "collectives/rate_probe.h"
#include "collectives/timeline.h"
#include "collectives/transport/loopback_transport.h"
#include "rank_suite.h"

namespace ballot {
namespace {

const VoteRates kFree = {1e18, 1e18, 1e18, 1e18};  // only the wire takes time

Cluster cluster_of(int workers, int node_size = 1, Link link = {1e8, 1e-3, 0}) {
  return {workers, node_size, link, {1e9, 1e-4, 0}};
}

struct Case {
  int workers;
  VoteOptions options;
};

class CostOfVotes : public testing::TestWithParam<Case> {};

TEST_P(CostOfVotes, EqualsWhatARealVoteSendsToTheByte) {
  const auto& [workers, options] = GetParam();
  std::mt19937_64 random(5);
  std::vector<BallotLayout> layouts = {test::make_layout({{1, 64}, {7, 192}}), flat_layout(100'001),
                                       test::model_layout()};
  for (int i = 0; i < 4; ++i) layouts.push_back(test::random_layout(random));
  for (const BallotLayout& layout : layouts) {
    const CollectiveCost predicted = vote_cost(layout, options, cluster_of(workers));
    run_loopback(workers, [&](Transport& transport) {
      Ballot ballot(layout);
      const auto vote = make_vote(ballot, transport, options, test::soon());
      EXPECT_EQ(vote->pieces(), static_cast<std::int64_t>(predicted.pieces.size()));
      if (transport.rank() != workers - 1) {
        vote->elect(1, test::soon());
        return;
      }
      const Traffic before = vote->traffic();
      vote->elect(1, test::soon());
      const Traffic sent = vote->traffic() - before;
      EXPECT_EQ(predicted.bytes.ballots, vote->cost().ballots);
      EXPECT_EQ(predicted.bytes.abstentions, vote->cost().abstentions);
      EXPECT_EQ(predicted.bytes.framing, vote->cost().framing);
      EXPECT_EQ(predicted.bytes.total(), static_cast<std::int64_t>(sent.sent(Purpose::vote)));
      // Every worker on a node of its own: all bytes leave it. A ring's messages are a guess.
      EXPECT_EQ(predicted.remote_bytes, predicted.bytes.total());
      if (options.schedule != Schedule::lanes) {
        EXPECT_EQ(static_cast<std::uint64_t>(predicted.messages),
                  sent.messages_sent[static_cast<std::size_t>(Purpose::vote)]);
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Schedules, CostOfVotes,
    testing::Values(
        Case{1, {}}, Case{2, {}}, Case{5, {}}, Case{4, {.ties = Ties::hold}},
        Case{4, {.piece_elements = 4096}}, Case{6, {.members = 2}}, Case{4, {.members = 4}},
        Case{4, {.ties = Ties::hold, .members = 2, .piece_elements = 50'000}},
        Case{3, {.schedule = Schedule::gathered}},
        Case{4, {.ties = Ties::hold, .schedule = Schedule::gathered, .piece_elements = 9000}},
        Case{3, {.schedule = Schedule::lanes}}, Case{5, {.schedule = Schedule::lanes}},
        Case{4, {.ties = Ties::hold, .schedule = Schedule::lanes, .piece_elements = 20'000}},
        Case{6, {.schedule = Schedule::hierarchical, .node_size = 3}},
        Case{4, {.schedule = Schedule::hierarchical, .node_size = 1}},
        Case{4, {.ties = Ties::hold, .schedule = Schedule::hierarchical, .node_size = 2}},
        Case{6,
             {.schedule = Schedule::hierarchical,
              .estimator = Estimator::majority_of_majorities,
              .node_size = 2}}));

TEST(CostOfMeans, EqualsWhatARealMeanSendsToTheByte) {
  for (const DType wire : {DType::f32, DType::bf16})
    for (const int workers : {1, 2, 3, 7})
      for (const std::vector<std::int64_t>& segments :
           {std::vector<std::int64_t>{1}, {64, 1, 300, 17}, {400'000, 192, 300'000, 3}}) {
        const CollectiveCost predicted = mean_cost(segments, wire, cluster_of(workers));
        run_loopback(workers, [&](Transport& transport) {
          Mean mean(segments, wire, transport);
          mean.begin(0);
          mean.reduce(test::soon());
          if (transport.rank() != workers - 1) return;
          EXPECT_EQ(predicted.bytes.ballots, mean.cost().elements);
          EXPECT_EQ(predicted.bytes.framing, mean.cost().framing);
          EXPECT_EQ(predicted.bytes.total(),
                    static_cast<std::int64_t>(transport.traffic().sent(Purpose::mean)));
          EXPECT_EQ(predicted.pieces.size(), static_cast<std::size_t>(mean.pieces()));
        });
      }
}

TEST(CostOfVotes, OfThePerNodeTable) {
  // 64 workers on 8 nodes: what leaves a node, in bits an element, abstentions (1/512) and framing
  // apart. Flat votes send each of a node's eight workers its own copy of the verdict.
  const BallotLayout layout = flat_layout(1 << 28);
  const Cluster cluster = cluster_of(64, 8);
  const auto bits = [&](const VoteOptions& options) {
    return 8 * vote_cost(layout, options, cluster).bytes_per_node /
           static_cast<double>(layout.count());
  };
  const double crossing = 7.0 / 8;
  EXPECT_NEAR(bits({}), 16 * crossing, 0.03 * 16);  // most of it: 64 voters' statistics
  EXPECT_NEAR(bits({.members = 8}), 2 * crossing, 0.02);
  EXPECT_NEAR(bits({.schedule = Schedule::hierarchical, .node_size = 8}), 5 * crossing, 0.15);
  EXPECT_NEAR(bits({.schedule = Schedule::hierarchical,
                    .estimator = Estimator::majority_of_majorities,
                    .node_size = 8}),
              2 * crossing, 0.15);
  EXPECT_NEAR(bits({.schedule = Schedule::gathered}), 8 * 56, 2);
}

TEST(CostOfVotes, RefusesWhatAVoteRefuses) {
  const BallotLayout layout = flat_layout(1000);
  EXPECT_THROW(vote_cost(layout, {.members = 3}, cluster_of(4)), ConfigError);
  EXPECT_THROW(vote_cost(layout, {}, cluster_of(4, 3)), ConfigError);
  EXPECT_THROW(vote_cost(layout, {.schedule = Schedule::gathered, .members = 2}, cluster_of(4)),
               ConfigError);
  EXPECT_THROW(vote_cost(layout, {}, cluster_of(1025)), ConfigError);
}

// Two pieces of 1,000 bytes in two stages over 1,000 bytes/s with 0.1 s latency: the second
// piece's ballots leave at 1..2, the first's verdicts (here 500 bytes) at 2..2.5, the second's at
// 2.5..3, and 0.1 later it is over.
CollectiveCost two_pieces() {
  CollectiveCost cost;
  cost.segment_starts = {0, 512};
  cost.extent = 1024;
  StageCost there, back;
  there.wire = {.remote_bytes = 1000, .remote_messages = 1};
  back.wire = {.remote_bytes = 500, .remote_messages = 1};
  for (const std::int64_t begin : {0, 512})
    cost.pieces.push_back({{begin, begin + 512}, {there, back}});
  return cost;
}

TEST(Timeline, PipelinesPiecesOverOneLink) {
  const Cluster cluster = cluster_of(2, 1, {1000, 0.1, 0});
  EXPECT_NEAR(simulate_alone(two_pieces(), cluster, kFree), 3.1, 1e-9);
}

TEST(Timeline, CountsWorkLatencyAndMessages) {
  CollectiveCost cost = two_pieces();
  cost.pieces.pop_back();
  cost.segment_starts = {0};
  cost.extent = 512;
  // 2 s sealing, 1 s + 0.25 s a message on the wire, 0.1 s; 3 s counting; 0.5 + 0.25 s, 0.1 s; 1 s.
  cost.pieces[0].stages[0].before.checksum_bytes = 200;
  cost.pieces[0].stages[0].after.tally_ballots = 300;
  cost.pieces[0].stages[1].after.memory_bytes = 10;
  const VoteRates rates = {1e18, 100, 100, 10};
  const Cluster cluster = cluster_of(2, 1, {1000, 0.1, 0.25});
  EXPECT_NEAR(simulate_alone(cost, cluster, rates), 2 + 1.25 + 0.1 + 3 + 0.75 + 0.1 + 1, 1e-9);
  // With several workers on the node the link carries all their bytes.
  Cluster shared = cluster;
  shared.node_size = 3;
  EXPECT_NEAR(simulate_alone(cost, shared, rates), 2 + 3.25 + 0.1 + 3 + 1.75 + 0.1 + 1, 1e-9);
}

TEST(Timeline, HidesBehindComputeWhatIsReleasedEarly) {
  const CollectiveCost cost = two_pieces();
  const CollectiveCost* const one[] = {&cost};
  const Cluster cluster = cluster_of(2, 1, {1000, 0.1, 0});
  const ComputeTask tasks[] = {{.seconds = 1, .collective = 0, .segment = 0},
                               {.seconds = 5, .collective = 0, .segment = 1}};
  const Timeline with = simulate(tasks, one, cluster, kFree);
  EXPECT_NEAR(with.computed, 6, 1e-9);
  EXPECT_NEAR(with.finished, 6 + 1 + 0.1 + 0.5 + 0.1, 1e-9);  // only the second piece shows
  EXPECT_NEAR(with.link_busy, 3, 1e-9);
  const Timeline without = simulate(tasks, one, cluster, kFree, {.overlap = false});
  EXPECT_NEAR(without.exposed(), 3.1, 1e-9);
}

// Four pieces of 1 ms on the wire and 1 s of latency.
TEST(Timeline, OnlySoManyPiecesAreUnderWayAtOnce) {
  CollectiveCost cost;
  cost.segment_starts = {0};
  cost.extent = 4 * 512;
  StageCost stage;
  stage.wire = {.remote_bytes = 1, .remote_messages = 1};
  for (std::int64_t begin = 0; begin < cost.extent; begin += 512)
    cost.pieces.push_back({{begin, begin + 512}, {stage}});
  const CollectiveCost* const one[] = {&cost};
  const Cluster cluster = cluster_of(2, 1, {1000, 1, 0});
  const auto finished = [&](std::size_t in_flight) {
    return simulate({}, one, cluster, kFree, {.in_flight = in_flight}).finished;
  };
  EXPECT_NEAR(finished(1), 4 * 1.001, 1e-9);
  EXPECT_NEAR(finished(2), 2 * 1.001 + 0.001, 1e-9);
  EXPECT_NEAR(finished(4), 1.004, 1e-9);
}

TEST(Timeline, OnASharedCoreCountingDelaysCompute) {
  CollectiveCost cost = two_pieces();
  for (PieceCost& piece : cost.pieces) piece.stages[0].before.checksum_bytes = 100;  // 1 s
  const CollectiveCost* const one[] = {&cost};
  const VoteRates rates = {1e18, 1e18, 100, 1e18};
  const ComputeTask tasks[] = {{.seconds = 1, .collective = 0, .segment = 0},
                               {.seconds = 5, .collective = 0, .segment = 1}};
  const Cluster cluster = cluster_of(2, 1, {1000, 0, 0});
  EXPECT_NEAR(simulate(tasks, one, cluster, rates).computed, 6, 1e-9);
  EXPECT_NEAR(simulate(tasks, one, cluster, rates, {.shared_core = true}).computed, 7, 1e-9);
}

TEST(Timeline, MeansInsideAVoterComeBeforeTheRestOfATask) {
  const CollectiveCost cost = two_pieces();
  const CollectiveCost* const one[] = {&cost};
  // Local link 1e9: 2 s and 1e-4 s latency for the first task, while the second computes 5 s.
  const ComputeTask tasks[] = {
      {.seconds = 1, .local_bytes = 2e9, .then_seconds = 1, .collective = 0, .segment = 0},
      {.seconds = 5, .collective = 0, .segment = 1}};
  const Timeline timeline = simulate(tasks, one, cluster_of(2), kFree);
  EXPECT_NEAR(timeline.computed, 7, 1e-9);
  EXPECT_NEAR(timeline.local_busy, 2, 1e-9);
}

TEST(Timeline, NoticesASegmentThatIsNeverReleased) {
  const CollectiveCost cost = two_pieces();
  const CollectiveCost* const one[] = {&cost};
  const ComputeTask tasks[] = {{.seconds = 1, .collective = 0, .segment = 0}};
  EXPECT_THROW(simulate(tasks, one, cluster_of(2), kFree), LogicError);
}

TEST(CostModel, AtHighRatesAndNoLatencyAVoteCostsWhatItsBytesCost) {
  // 64 M parameters, 4 workers, 1 Gbit/s: 2 x 3/4 x 8 MB / 125 MB/s = 0.096 s.
  const CollectiveCost cost = vote_cost(flat_layout(64'000'000), {}, cluster_of(4));
  const Link gigabit = {125e6, 0, 0};
  EXPECT_NEAR(simulate_alone(cost, cluster_of(4, 1, gigabit), kFree), 0.096, 0.001);
  EXPECT_NEAR(ideal_ring(4 * 64e6, cluster_of(4, 1, gigabit)).seconds, 3.072, 1e-9);
}

RC_GTEST_PROP(CostModel, MoreBandwidthOrLessLatencyIsNeverSlower, ()) {
  const int node_size = *rc::gen::element(1, 2, 4);
  const int workers = node_size * *rc::gen::inRange(2, 9);
  const BallotLayout layout = flat_layout(*rc::gen::inRange(1, 40'000'000));
  const Schedule schedule = *rc::gen::element(Schedule::sharded, Schedule::gathered,
                                              Schedule::lanes, Schedule::hierarchical);
  VoteOptions options;
  options.schedule = schedule;
  options.node_size = schedule == Schedule::hierarchical ? node_size : 1;
  const VoteRates rates = {1e9 * *rc::gen::inRange(1, 50), 1e10, 3e9, 1e10};
  Cluster slow =
      cluster_of(workers, node_size,
                 {1e6 * *rc::gen::inRange(1, 5000), 1e-6 * *rc::gen::inRange(1, 5000), 1e-5});
  const CollectiveCost cost = vote_cost(layout, options, slow);
  Cluster fast = slow;
  fast.link.bandwidth *= 1 + 0.5 * *rc::gen::inRange(0, 10);
  fast.link.latency /= *rc::gen::inRange(1, 10);
  const double slow_seconds = simulate_alone(cost, slow, rates);
  // A busier link changes the order of pieces: what one wait can cost is a piece's counting.
  RC_ASSERT(simulate_alone(cost, fast, rates) <= slow_seconds * 1.02 + 1e-6);
  RC_ASSERT(slow_seconds >=
            slow.node_size * static_cast<double>(cost.remote_bytes) / slow.link.bandwidth * 0.999);
}

TEST(ChooseSchedule, TakesTheFewestBytesOfThoseThatAreAboutAsShortAsTheShortest) {
  std::mt19937_64 random(9);
  for (int trial = 0; trial < 40; ++trial) {
    const int node_size = 1 << (random() % 3),
              workers = node_size * (2 + static_cast<int>(random() % 7));
    const BallotLayout layout = flat_layout(1 + static_cast<std::int64_t>(random() % 30'000'000));
    const Cluster cluster = cluster_of(
        workers, node_size, {std::exp2(15.0 + static_cast<double>(random() % 20)), 1e-4, 1e-5});
    const bool sums = random() % 2 == 0;
    const ScheduleChoice choice =
        choose_schedule(layout, {}, sums, cluster, {1e10, 5e10, 5e9, 1e10});
    ScheduleTime chosen;
    double shortest = std::numeric_limits<double>::infinity();
    bool lanes = false;
    for (const ScheduleTime& time : choice.times) {
      if (time.schedule == choice.schedule) chosen = time;
      shortest = std::min(shortest, time.seconds);
      lanes |= time.schedule == Schedule::lanes;
    }
    const double allowed = std::max(1.1 * shortest, shortest + 1e-3);
    EXPECT_LE(chosen.seconds, allowed);
    for (const ScheduleTime& time : choice.times) {
      EXPECT_TRUE(time.seconds > allowed || chosen.bytes_per_node <= time.bytes_per_node);
    }
    EXPECT_EQ(lanes, sums);
    EXPECT_EQ(choice.times.size(), 2u + sums + (node_size > 1));
    EXPECT_NE(choice.reason.find(to_string(choice.schedule)), std::string::npos);
    const ScheduleChoice again =
        choose_schedule(layout, {}, sums, cluster, {1e10, 5e10, 5e9, 1e10});
    EXPECT_EQ(again.schedule, choice.schedule);
    EXPECT_EQ(again.reason, choice.reason);
  }
}

TEST(ChooseSchedule, GathersWhatIsSmallAndFarAway) {
  const VoteRates rates = {1e10, 5e10, 5e9, 1e10};
  const Cluster far = cluster_of(4, 1, {1e9, 0.05, 0});
  EXPECT_EQ(choose_schedule(flat_layout(10'000), {}, false, far, rates).schedule,
            Schedule::gathered);
  const Cluster narrow = cluster_of(4, 1, {1e7, 1e-4, 0});
  EXPECT_EQ(choose_schedule(flat_layout(64'000'000), {}, false, narrow, rates).schedule,
            Schedule::sharded);
  const Cluster nodes = cluster_of(64, 8, {1e9, 1e-4, 0});
  EXPECT_EQ(choose_schedule(flat_layout(1 << 28), {}, false, nodes, rates).schedule,
            Schedule::hierarchical);
  EXPECT_EQ(choose_schedule(flat_layout(1 << 28), {.members = 8}, false, nodes, rates).schedule,
            Schedule::sharded);
}

TEST(ChooseSchedule, OfAnotherEstimatorIsItsOwn) {
  const ScheduleChoice choice =
      choose_schedule(flat_layout(1000), {.estimator = Estimator::majority_of_majorities}, true,
                      cluster_of(4, 2), {1e10, 5e10, 5e9, 1e10});
  EXPECT_EQ(choice.schedule, Schedule::hierarchical);
  EXPECT_EQ(choice.times.size(), 1u);
}

TEST(ProbeLink, GivesAllRanksTheSameFigures) {
  for (const int ranks : {2, 3, 4}) {
    std::vector<Link> links(static_cast<std::size_t>(ranks));
    std::vector<VoteRates> rates(links.size());
    run_loopback(ranks, [&](Transport& transport) {
      const std::size_t rank = static_cast<std::size_t>(transport.rank());
      const int node_size = ranks == 4 ? 2 : 1;
      links[rank] = probe_link(transport, node_size, test::soon());
      const double mine = 1.0 + transport.rank();
      rates[rank] = share_rates(transport, {mine, mine, mine, mine}, test::soon());
      EXPECT_EQ(transport.traffic().sent(Purpose::vote), 0u);
    });
    for (std::size_t r = 0; r < links.size(); ++r) {
      EXPECT_GT(links[r].bandwidth, 0);
      EXPECT_EQ(links[r].bandwidth, links[0].bandwidth);
      EXPECT_EQ(links[r].latency, links[0].latency);
      EXPECT_EQ(links[r].per_message, links[0].per_message);
      EXPECT_EQ(rates[r].memory, 1.0);
    }
  }
  run_loopback(1, [](Transport& transport) {
    EXPECT_THROW(probe_link(transport, 1, test::soon()), ConfigError);
  });
}

TEST(ProbeRates, AreAllAboveZero) {
  const VoteRates rates = probe_vote_rates(4);
  for (const double rate :
       {rates.tally_elements, rates.tally_ballots, rates.checksum, rates.memory})
    EXPECT_GT(rate, 0);
}

}  // namespace
}  // namespace ballot
