// One vote, whatever the schedule, over threads; fair coins; damage that is found.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <cmath>
#include <functional>

#include "collectives/transport/loopback_transport.h"
#include "collectives/voter_agreement.h"
#include "schedule_suite.h"
#include "tests/support/fault_transport.h"

namespace ballot {
namespace {

using test::VoteCase;
using testing::HasSubstr;

// What is wrong on any rank, or nothing.
std::string run_over_threads(const VoteCase& c) {
  std::vector<std::string> wrong(static_cast<std::size_t>(c.ranks));
  run_loopback(c.ranks, [&](Transport& transport) {
    wrong[static_cast<std::size_t>(transport.rank())] = test::run_case(transport, c);
  });
  return std::accumulate(wrong.begin(), wrong.end(), std::string());
}

class Schedules : public testing::TestWithParam<int> {};

TEST_P(Schedules, GiveOneVerdictWhateverTheGrouping) {
  const int ranks = GetParam();
  const int groupings = static_cast<int>(std::ranges::count(
      test::schedules_that_fit(ranks, true), Schedule::sharded, &VoteOptions::schedule));
  int grouping = 0;
  for (const VoteOptions& options : test::schedules_that_fit(ranks, true)) {
    // Of many ranks not every grouping: the smallest and another one.
    const bool grouped =
        options.schedule == Schedule::sharded || options.schedule == Schedule::hierarchical;
    const int which = grouped ? grouping++ / 3 : 0;
    if (ranks > 12 && which != 0 && which != 1 + ranks % (groupings - 1)) continue;
    for (std::uint64_t seed = 0; seed < (ranks <= 4 ? 4 : 1); ++seed)
      ASSERT_EQ(run_over_threads(test::make_case(ranks, options, seed)), "");
  }
}

INSTANTIATE_TEST_SUITE_P(UpTo33, Schedules, testing::Range(1, 34));

RC_GTEST_PROP(AnySchedule, GivesTheVerdictOfAllBallots, ()) {
  const int ranks = *rc::gen::inRange(1, 13);
  const auto options = *rc::gen::elementOf(test::schedules_that_fit(ranks, true));
  const std::uint64_t seed = *rc::gen::arbitrary<std::uint32_t>();
  const std::string wrong = run_over_threads(test::make_case(ranks, options, seed));
  RC_LOG() << wrong;
  RC_ASSERT(wrong.empty());
}

// Rows of every length from 1 to 528, sixteen tensors at a time.
TEST(EverySchedule, EveryRemainderOfABlockAndOfAWord) {
  for (const VoteOptions& options :
       std::vector<VoteOptions>{{},
                                {.members = 2},
                                {.schedule = Schedule::gathered},
                                {.schedule = Schedule::lanes},
                                {.schedule = Schedule::hierarchical, .node_size = 2}})
    run_loopback(4, [&](Transport& transport) {
      for (std::int64_t first = 1; first <= 33; ++first) {
        std::vector<std::vector<std::int64_t>> shapes;
        for (std::int64_t length = first; length <= 528; length += 33)
          shapes.push_back({1 + length % 2, length});
        const BallotLayout layout = test::make_layout(shapes);
        const std::uint64_t seed = static_cast<std::uint64_t>(first);
        ASSERT_EQ(test::run_case(transport, test::make_case(4, options, seed, &layout)), "");
      }
    });
}

// Ranks with one, two and three threads beside one another; chunks that are worth them.
TEST(EverySchedule, NumberOfThreadsChangesNothing) {
  const BallotLayout layout = test::make_layout({{500, 576}, {1, 7}, {300, 960, 1024}});
  std::uint64_t seed = 60;
  for (const VoteOptions& options : test::schedules_that_fit(4, true))
    ASSERT_EQ(run_over_threads(test::make_case(4, options, ++seed, &layout)), "");
}

// release() on one thread, advance() on another.
TEST(EverySchedule, SegmentsMayBeReleasedBesideTheThreadThatVotes) {
  for (const VoteOptions& options : test::schedules_that_fit(4, true)) {
    const VoteCase c = test::make_case(4, options, 17);
    run_loopback(4, [&](Transport& transport) {
      const std::size_t voter = static_cast<std::size_t>(transport.rank() / c.options.members);
      const auto vote = make_vote(*c.ballots[0][voter], transport, c.options, test::soon());
      vote->begin(0);
      std::thread maker([&] {
        for (std::size_t segment = vote->segments(); segment-- > 0;) {
          std::this_thread::sleep_for(std::chrono::microseconds(100));
          vote->release(segment);
        }
      });
      vote->finish(test::soon());
      maker.join();
      EXPECT_EQ(test::difference(vote->verdict(), c.truths[0]), "") << c.name();
    });
  }
}

TEST(EverySchedule, IsNamedInItsStatisticsByTheNumberOfItsVoters) {
  const BallotLayout layout = test::make_layout({{3, 192}});
  run_loopback(6, [&](Transport& transport) {
    const Ballot mine(layout);
    const auto voters = [&](const VoteOptions& options) {
      return make_vote(mine, transport, options, test::soon())->voters();
    };
    EXPECT_EQ(voters({}), 6);
    EXPECT_EQ(voters({.members = 3}), 2);
    EXPECT_EQ(voters({.schedule = Schedule::hierarchical, .node_size = 3}), 6);
    EXPECT_EQ(voters({.schedule = Schedule::hierarchical,
                      .estimator = Estimator::majority_of_majorities,
                      .node_size = 3}),
              2);
  });
}

// Four nodes of three: 7 of 12 vote +, but two to one in three of the nodes vote -.
TEST(MajorityOfMajorities, IsAnotherEstimatorThanTheMajority) {
  const BallotLayout layout = test::make_layout({{1, 64}});
  Ballot negative(layout), positive(layout);
  std::ranges::fill(negative.bits().span(), 0);
  negative.bits().words()[0] = ~std::uint64_t{0};
  const std::vector<int> is_negative = {1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0};
  run_loopback(12, [&](Transport& transport) {
    const bool minus = is_negative[static_cast<std::size_t>(transport.rank())] != 0;
    const auto elected = [&](Estimator estimator, Ties ties) {
      const auto vote = make_vote(minus ? negative : positive, transport,
                                  {.ties = ties,
                                   .schedule = Schedule::hierarchical,
                                   .estimator = estimator,
                                   .node_size = 3},
                                  test::soon());
      const Verdict& verdict = vote->elect(0, test::soon());
      return std::pair(verdict.bits.words()[0], verdict.statistics.ties);
    };
    EXPECT_EQ(elected(Estimator::majority, Ties::hold),
              std::pair(std::uint64_t{0}, std::int64_t{0}));
    // Two nodes against two.
    EXPECT_EQ(elected(Estimator::majority_of_majorities, Ties::hold),
              std::pair(std::uint64_t{0}, std::int64_t{64}));
  });
}

// What counts cost on the link between nodes: digits of G voters for every element instead of G
// ballots, verdicts once a node.
TEST(HierarchicalVote, CostsBetweenNodesWhatTheTableSays) {
  const BallotLayout layout = test::model_layout();
  constexpr int kNodes = 2, kNodeSize = 4;
  run_loopback(kNodes * kNodeSize, [&](Transport& transport) {
    const Ballot mine(layout);
    const auto vote =
        make_vote(mine, transport, {.schedule = Schedule::hierarchical, .node_size = kNodeSize},
                  test::soon());
    vote->elect(0, test::soon());
    const double p = static_cast<double>(layout.count()) / 8;
    const double local = 2.0 * (kNodeSize - 1) / kNodeSize * p;
    // count_digits(4) = 3 planes there, one back, of a quarter of the elements.
    const double between = (3 + 1) * (kNodes - 1.0) / kNodes * p / kNodeSize;
    EXPECT_NEAR(static_cast<double>(vote->cost().ballots), local + between, 0.02 * p);
    EXPECT_EQ(vote->split_traffic().sent(Purpose::control), 0u);
    EXPECT_GT(vote->split_traffic().sent(Purpose::vote), 0u);
  });
}

TEST(LaneVote, CostsWhatTheTableSays) {
  const BallotLayout layout = test::model_layout();
  for (const int ranks : {2, 4, 17})
    run_loopback(ranks, [&](Transport& transport) {
      const Ballot mine(layout);
      const auto vote = make_vote(mine, transport, {.schedule = Schedule::lanes}, test::soon());
      const int lane = ranks <= 3 ? 2 : ranks <= 15 ? 4 : 8;
      EXPECT_NEAR(static_cast<double>(vote->cost().ballots),
                  2.0 * (ranks - 1) / ranks * static_cast<double>(layout.count()) * lane / 8, 1);
    });
}

// P(|heads - n/2| >= t) <= 2 exp(-2 t^2 / n) for n fair coins (Hoeffding): a bound, no
// approximation. False alarm over all comparisons of a test at most 1e-9, were the coins drawn
// anew; with fixed seeds it passes or fails for good.
class CoinCounts {
 public:
  explicit CoinCounts(int comparisons) : alarm_(1e-9 / comparisons) {}
  void expect_fair(std::int64_t heads, std::int64_t n, const std::string& what) {
    ++seen_;
    const double coins = static_cast<double>(n);
    const double allowed = std::sqrt(coins * std::log(2 / alarm_) / 2);
    EXPECT_LE(std::abs(static_cast<double>(heads) - coins / 2), allowed) << what << " of " << n;
  }
  int seen() const { return seen_; }

 private:
  double alarm_;
  int seen_ = 0;
};

// The coins as voters meet them: two voters who disagree on everything elect nothing but coins.
std::vector<std::uint64_t> elected_coins(std::uint64_t seed, std::int64_t step) {
  static const BallotLayout layout = test::make_layout({{64, 1024}});  // 65,536 elements
  static const test::Ballots ballots = [] {
    std::mt19937_64 random(41);
    test::Ballots two = test::random_ballots(layout, 1, test::Mood::unanimous, random);
    two.push_back(std::make_unique<Ballot>(layout));
    for (std::int64_t w = 0; w < layout.extent() / 64; ++w)
      two[1]->bits().words()[w] = ~two[0]->bits().words()[w];
    return two;
  }();
  const BallotChunk all = layout.chunk(0, 1);
  test::ChunkVerdict verdict(all, Ties::coin);
  tally(layout, all, test::ChunkBallots(ballots, all).parts, {seed, step, Ties::coin},
        verdict.part(), verdict.statistics);
  EXPECT_EQ(verdict.statistics.ties, verdict.statistics.elements);
  return verdict.bits;
}

std::int64_t ones(const std::vector<std::uint64_t>& words) {
  return std::accumulate(words.begin(), words.end(), std::int64_t{0},
                         [](std::int64_t sum, std::uint64_t w) { return sum + std::popcount(w); });
}

std::int64_t differing(const std::vector<std::uint64_t>& a, const std::vector<std::uint64_t>& b) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += std::popcount(a[i] ^ b[i]);
  return count;
}

// Element i against element i + distance.
std::vector<std::uint64_t> shifted(const std::vector<std::uint64_t>& words, std::int64_t distance) {
  std::vector<std::uint64_t> result(words.size() + 1);
  const std::int64_t count = static_cast<std::int64_t>(words.size()) * 64 - distance;
  copy_bits(words.data(), distance, result.data(), 0, count);
  result.resize(words.size());
  return result;
}

TEST(TieCoins, AreFairForEverySeedStepAndElement) {
  constexpr int kSeeds = 16, kSteps = 64;
  CoinCounts counts(kSeeds * kSteps + kSeeds + kSteps + 64);
  std::vector<std::int64_t> of_step(kSteps), of_bit(64);
  std::int64_t all = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    std::int64_t of_seed = 0;
    for (int step = 0; step < kSteps; ++step) {
      const auto coins = elected_coins(static_cast<std::uint64_t>(seed), step);
      const std::int64_t heads = ones(coins), n = static_cast<std::int64_t>(coins.size()) * 64;
      counts.expect_fair(heads, n, fmt::format("seed {}, step {}", seed, step));
      of_seed += heads;
      of_step[static_cast<std::size_t>(step)] += heads;
      all += n;
      for (const std::uint64_t word : coins)
        for (std::size_t bit = 0; bit < 64; ++bit)
          of_bit[bit] += static_cast<std::int64_t>((word >> bit) & 1u);
    }
    counts.expect_fair(of_seed, all / (seed + 1), fmt::format("seed {}", seed));
  }
  for (std::size_t step = 0; step < kSteps; ++step)
    counts.expect_fair(of_step[step], all / kSteps, fmt::format("step {}", step));
  for (std::size_t bit = 0; bit < 64; ++bit)
    counts.expect_fair(of_bit[bit], all / 64, fmt::format("bit {}", bit));
  EXPECT_EQ(counts.seen(), kSeeds * kSteps + kSeeds + kSteps + 64);
}

// Neighbours in element, step and seed are alike as often as not.
TEST(TieCoins, OfNeighboursAreIndependent) {
  const std::vector<std::int64_t> distances = {1, 2, 3, 7, 63, 64, 65, 128, 512, 1024};
  constexpr int kSteps = 32;
  CoinCounts counts(kSteps * (static_cast<int>(distances.size()) + 2));
  for (int step = 0; step < kSteps; ++step) {
    const auto coins = elected_coins(5, step);
    const std::int64_t n = static_cast<std::int64_t>(coins.size()) * 64;
    counts.expect_fair(differing(coins, elected_coins(5, step + 1)), n,
                       fmt::format("step {} and the next", step));
    counts.expect_fair(differing(coins, elected_coins(6, step)), n,
                       fmt::format("step {}, seeds 5 and 6", step));
    for (const std::int64_t distance : distances) {
      auto first = coins, second = shifted(coins, distance);
      for (std::int64_t i = n - distance; i < n; ++i)  // those without a neighbour
        first[static_cast<std::size_t>(i / 64)] &= ~(std::uint64_t{1} << (i % 64));
      counts.expect_fair(differing(first, second), n - distance,
                         fmt::format("step {}, {} elements apart", step, distance));
    }
  }
}

// A split transport that damages what it receives.
class DamagedSplit final : public Transport {
 public:
  DamagedSplit(std::unique_ptr<Transport> base, ReceivedFault fault)
      : base_(std::move(base)), faulty_(*base_, fault) {}
  std::string name() const override { return faulty_.name(); }
  int rank() const override { return base_->rank(); }
  int size() const override { return base_->size(); }
  void idle(Duration at_most) override { base_->idle(at_most); }
  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    return base_->split(color, deadline);
  }
  Traffic traffic() const override { return base_->traffic(); }

 protected:
  std::unique_ptr<Transfer> make_transfer(std::uint64_t, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    return faulty_.open_exchange(purpose, to, from);
  }

 private:
  std::unique_ptr<Transport> base_;
  FaultTransport faulty_;
};

// Damages what this rank's sums give.
using SumDamage = std::function<void(std::span<std::uint32_t>)>;
class DamagedReducer final : public Reducer {
 public:
  DamagedReducer(Reducer& base, SumDamage damage) : base_(base), damage_(std::move(damage)) {}
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<std::uint32_t> values) override {
    return std::make_unique<Sum>(base_.open_sum(purpose, values), values, damage_);
  }
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<float> values) override {
    return base_.open_sum(purpose, values);
  }
  std::unique_ptr<Transfer> open_sum(Purpose purpose, std::span<bfloat16> values) override {
    return base_.open_sum(purpose, values);
  }

 private:
  class Sum final : public Transfer {
   public:
    Sum(std::unique_ptr<Transfer> base, std::span<std::uint32_t> values, const SumDamage& damage)
        : base_(std::move(base)), values_(values), damage_(damage) {}
    void start() override { base_->start(); }
    bool done() override {
      if (!base_->done()) return false;
      damage_(values_);
      return true;
    }
    void wait(Deadline deadline) override { base_->wait(deadline); }
    const std::vector<bool>& arrived() override { return base_->arrived(); }

   private:
    std::unique_ptr<Transfer> base_;
    std::span<std::uint32_t> values_;
    const SumDamage& damage_;
  };
  Reducer& base_;
  SumDamage damage_;
};

struct Damage {
  int split = -1;  // which of the transports split off, and what it receives there
  ReceivedFault fault = {};
  SumDamage sum = {};
};

// Passes on what is not to be damaged.
class DamagedTransport final : public Transport {
 public:
  DamagedTransport(Transport& base, const Damage& damage)
      : base_(base), split_(damage.split), fault_(damage.fault) {
    if (damage.sum) reducer_ = std::make_unique<DamagedReducer>(*base.reducer(), damage.sum);
  }
  std::string name() const override { return "damaged " + base_.name(); }
  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  void idle(Duration at_most) override { base_.idle(at_most); }
  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    auto part = base_.split(color, deadline);
    if (split_-- != 0) return part;
    return std::make_unique<DamagedSplit>(std::move(part), fault_);
  }
  Traffic traffic() const override { return base_.traffic(); }
  Reducer* reducer() override { return reducer_ ? reducer_.get() : base_.reducer(); }

 protected:
  std::unique_ptr<Transfer> make_transfer(std::uint64_t, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    return base_.open_exchange(purpose, to, from);
  }

 private:
  Transport& base_;
  int split_;
  ReceivedFault fault_;
  std::unique_ptr<Reducer> reducer_;
};

// What rank 0's TransportError says when its part is damaged; the others may lose it.
std::string message_of(int ranks, const VoteOptions& options, const Damage& damage) {
  const BallotLayout layout = test::make_layout({{2, 192}, {1, 100}});
  std::string message;
  run_loopback(ranks, [&](Transport& transport) {
    std::mt19937_64 random(51);
    const auto ballots = test::random_ballots(layout, ranks, test::Mood::random, random);
    const Ballot& mine = *ballots[static_cast<std::size_t>(transport.rank())];
    const auto elect = [&](const Damage& what) {
      DamagedTransport over(transport, what);
      const auto vote = make_vote(mine, over, options, test::soon());
      transport.barrier(test::soon());  // all are ready before one may fail
      vote->elect(0, test::soon());
    };
    if (transport.rank() == 0) {
      message = test::message_of<TransportError>([&] { elect(damage); });
    } else {
      try {
        elect({});
      } catch (const PeerLost&) {  // rank 0 gave up
      }
    }
  });
  return message;
}

TEST(LaneVote, ADamagedSumIsFoundWhateverBitItIs) {
  for (std::size_t bit = 0; bit < 32 * 120; bit += 13) {
    const std::string message = message_of(
        3, {.schedule = Schedule::lanes}, {.sum = [bit](std::span<std::uint32_t> values) {
          values[bit / 32 % values.size()] ^= std::uint32_t{1} << (bit % 32);
        }});
    EXPECT_THAT(message, HasSubstr("the sum of lanes of piece 0 of step 0")) << bit;
  }
}

// Two values changed so that the checksum stays: every lane of the first says 15.
TEST(LaneVote, ACountAboveTheVotersIsFound) {
  const std::string message =
      message_of(4, {.schedule = Schedule::lanes}, {.sum = [](std::span<std::uint32_t> values) {
                   constexpr std::uint32_t kThird = 0xaaaaaaabu;  // 3 x this is 1
                   const std::uint32_t change = kThird * (~std::uint32_t{0} - values[0]);
                   values[0] += 3 * change;  // of weight 1
                   values[1] -= change;      // of weight 3
                 }});
  EXPECT_THAT(message, HasSubstr("a count is above the 4 voters"));
}

TEST(VoterAgreement, OfRanksWithDifferentVerdictsNamesThem) {
  run_loopback(3, [&](Transport& transport) {
    VoterAgreement agreement(transport, 1, 1);
    VoteStatistics statistics;
    statistics.agreed = statistics.compared = {0, 0, 0};
    agreement.add_digest(transport.rank() == 2 ? 0xbad : 0xf00);
    MessageHeader header;
    header.kind = MessageKind::agreement;
    header.sender = static_cast<std::uint32_t>(transport.rank());
    const std::string message = test::message_of<TransportError>([&] {
      while (!agreement.advance(header, statistics)) transport.idle(std::chrono::milliseconds(1));
    });
    EXPECT_THAT(message, testing::ContainsRegex("0+f00 on rank [01]"));
    EXPECT_THAT(message, testing::ContainsRegex("0+bad on rank 2"));
    transport.barrier(test::soon());
  });
}

TEST(LaneVote, OfRanksOfDifferentStepsIsRefused) {
  const BallotLayout layout = test::make_layout({{2, 192}});
  run_loopback(3, [&](Transport& transport) {
    const Ballot mine(layout);
    const auto vote = make_vote(mine, transport, {.schedule = Schedule::lanes}, test::soon());
    const std::string message = test::message_of<TransportError>(
        [&] { vote->elect(transport.rank() == 1 ? 9 : 4, test::soon()); });
    EXPECT_THAT(message, HasSubstr("the ranks' step adds up to 17, expected 3 x"));
    transport.barrier(test::soon());
  });
}

TEST(LaneVote, NeedsATransportThatSums) {
  const BallotLayout layout = test::make_layout({{2, 192}});
  run_loopback(2, [&](Transport& transport) {
    FaultTransport without(transport, {});
    const Ballot mine(layout);
    EXPECT_THAT(test::message_of<Unavailable>(
                    [&] { make_vote(mine, without, {.schedule = Schedule::lanes}, test::soon()); }),
                HasSubstr("fault over loopback does not"));
  });
}

// Two nodes of two. Split 0 joins peers (counts: transfer 0, verdicts: 1), split 1 the node
// (ballots: 0, shares: 1); rank 0 gets them from rank 2 and rank 1.
TEST(HierarchicalVote, ADamagedByteIsFoundInEveryStageAndNamesTheRank) {
  struct Place {
    int split;
    std::uint64_t transfer;
    const char* who;
  };
  for (const Place& place :
       {Place{0, 0, "counts from rank 2: "}, Place{0, 1, "verdict from rank 2: "},
        Place{1, 0, "ballot from rank 1: "}, Place{1, 1, "share of a verdict from rank 1: "}})
    for (std::size_t byte = 0; byte < 120; byte += 7) {
      const std::string message =
          message_of(4, {.schedule = Schedule::hierarchical, .node_size = 2},
                     {.split = place.split,
                      .fault = {.kept_transfer = place.transfer, .from_rank = 1, .byte = byte}});
      EXPECT_THAT(message, HasSubstr(place.who)) << byte;
    }
}

}  // namespace
}  // namespace ballot
