// However voters are split into nodes, the sum of the nodes' counts decides what all ballots do.
#include "collectives/count_planes.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <random>
#include <set>

#include "core/error.h"
#include "core/parallel.h"
#include "kernel_versions.h"
#include "random_ballots.h"

namespace ballot {
namespace {

using test::ChunkBallots;
using test::ChunkVerdict;
using test::Mood;
using Ballots = std::vector<std::unique_ptr<Ballot>>;

// The counts of one node, with their memory.
struct NodeCounts {
  NodeCounts(const BallotLayout& layout, const BallotChunk& chunk,
             std::span<const BallotPart> ballots)
      : words(static_cast<std::size_t>(count_words(chunk, static_cast<int>(ballots.size()))),
              ~std::uint64_t{0}),
        part(count_part(words.data(), chunk, static_cast<int>(ballots.size()))) {
    count_ballots(layout, chunk, ballots, part);
  }
  std::vector<std::uint64_t> words;
  CountPart part;
};

struct Decision {
  ChunkVerdict verdict;
  std::vector<std::uint64_t> sample;
};

// Consecutive voters in nodes of these sizes.
Decision decide(const BallotLayout& layout, const BallotChunk& chunk,
                std::span<const BallotPart> ballots, const std::vector<int>& nodes,
                const TallyOptions& options) {
  std::vector<std::unique_ptr<NodeCounts>> counts;
  std::vector<CountPart> parts;
  std::size_t first = 0;
  for (const int node : nodes) {
    counts.push_back(std::make_unique<NodeCounts>(
        layout, chunk, ballots.subspan(first, static_cast<std::size_t>(node))));
    parts.push_back(counts.back()->part);
    first += static_cast<std::size_t>(node);
  }
  Decision decision{
      ChunkVerdict(chunk, options.ties),
      std::vector<std::uint64_t>(static_cast<std::size_t>(sample_words(chunk)), ~std::uint64_t{0})};
  tally_counts(layout, chunk, parts, options, decision.verdict.part(), decision.verdict.statistics,
               decision.sample.data());
  decision.verdict.by_segment = SegmentAgreement(layout.segments().size(), ballots.size());
  for (const BallotPart& ballot : ballots) {
    std::int64_t agreed = 0, compared = 0;
    const std::size_t voter = decision.verdict.statistics.agreed.size();
    compare_voter(layout, chunk, ballot, decision.verdict.bits.data(), decision.sample.data(),
                  agreed, compared, &decision.verdict.by_segment, voter);
    decision.verdict.statistics.agreed.push_back(agreed);
    decision.verdict.statistics.compared.push_back(compared);
  }
  return decision;
}

bool equal(const ChunkVerdict& a, const ChunkVerdict& b) {
  const VoteStatistics &x = a.statistics, &y = b.statistics;
  return a.bits == b.bits && a.held_blocks == b.held_blocks && a.held_elements == b.held_elements &&
         x.elements == y.elements && x.ties == y.ties && x.unanimous == y.unanimous &&
         x.held_blocks == y.held_blocks && x.blocks == y.blocks && x.agreed == y.agreed &&
         x.compared == y.compared && a.by_segment == b.by_segment;
}

std::vector<int> random_split(int voters, std::mt19937_64& random) {
  std::vector<int> nodes;
  for (int left = voters; left > 0; left -= nodes.back())
    nodes.push_back(1 + static_cast<int>(random() % static_cast<std::uint64_t>(left)));
  return nodes;
}

// Layouts, moods, chunks and splits at random: the three tallies agree in everything.
void expect_one_truth(int voters, Ties ties, std::mt19937_64& random) {
  const BallotLayout layout = test::random_layout(random);
  const Mood mood = std::vector{Mood::random, Mood::unanimous, Mood::silent}[random() % 3];
  const Ballots ballots = test::random_ballots(layout, voters, mood, random);
  const int owners = static_cast<int>(1 + random() % 4);
  const BallotChunk chunk =
      layout.chunk(static_cast<int>(random() % static_cast<std::uint64_t>(owners)), owners);
  const TallyOptions options{.seed = test::kSeed, .step = voters, .ties = ties};
  const ChunkBallots parts(ballots, chunk);
  ChunkVerdict slow(chunk, ties);
  slow.by_segment = SegmentAgreement(layout.segments().size(), ballots.size());
  tally_reference(layout, chunk, parts.parts, options, slow.part(), slow.statistics,
                  &slow.by_segment);
  const std::vector<int> nodes = random_split(voters, random);
  test::for_each_kernel_version([&] {
    ChunkVerdict fast(chunk, ties);
    fast.by_segment = SegmentAgreement(layout.segments().size(), ballots.size());
    tally(layout, chunk, parts.parts, options, fast.part(), fast.statistics, &fast.by_segment);
    RC_ASSERT(equal(fast, slow));
    RC_ASSERT(equal(decide(layout, chunk, parts.parts, nodes, options).verdict, slow));
  });
}

RC_GTEST_PROP(CountPlanes, AnySplitIntoNodesGivesTheVerdictOfAllBallots, ()) {
  const int voters = *rc::gen::inRange(1, 34);
  const Ties ties = *rc::gen::element(Ties::coin, Ties::hold);
  std::mt19937_64 random(*rc::gen::arbitrary<std::uint32_t>());
  expect_one_truth(voters, ties, random);
}

TEST(CountPlanes, EveryNumberOfVotersUpTo33AndTheLargest) {
  std::mt19937_64 random(1);
  for (int voters = 1; voters <= 33; ++voters)
    for (const Ties ties : {Ties::coin, Ties::hold}) expect_one_truth(voters, ties, random);
  for (const int voters : {63, 64, 127, 255, 256, 511, 1023, 1024})
    expect_one_truth(voters, Ties::hold, random);
}

TEST(CountPlanes, EveryRemainderOfARowAndOfAChunk) {
  std::mt19937_64 random(2);
  for (std::int64_t cols = 1; cols <= 130; ++cols) {
    const BallotLayout layout = test::make_layout({{1 + cols % 11, cols}, {1, 512 + cols}});
    const Ballots ballots = test::random_ballots(layout, 5, Mood::random, random);
    for (int owner = 0; owner < 2; ++owner) {
      const BallotChunk chunk = layout.chunk(owner, 2);
      const ChunkBallots parts(ballots, chunk);
      const TallyOptions options{.seed = 3, .step = cols};
      ChunkVerdict slow(chunk, Ties::coin);
      slow.by_segment = SegmentAgreement(layout.segments().size(), ballots.size());
      tally_reference(layout, chunk, parts.parts, options, slow.part(), slow.statistics,
                      &slow.by_segment);
      EXPECT_TRUE(equal(decide(layout, chunk, parts.parts, {2, 1, 2}, options).verdict, slow))
          << cols;
    }
  }
}

TEST(CountPlanes, NumberOfThreadsChangesNothing) {
  std::mt19937_64 random(3);
  const BallotLayout layout = test::make_layout({{300, 576}, {200, 960}, {100, 700}});
  const Ballots ballots = test::random_ballots(layout, 6, Mood::silent, random);
  const BallotChunk chunk = layout.chunk(0, 1);
  const ChunkBallots parts(ballots, chunk);
  const int threads = thread_count();
  set_thread_count(1);
  const Decision one = decide(layout, chunk, parts.parts, {3, 3}, {});
  set_thread_count(4);
  const Decision four = decide(layout, chunk, parts.parts, {3, 3}, {});
  set_thread_count(threads);
  EXPECT_TRUE(equal(one.verdict, four.verdict));
  EXPECT_EQ(one.sample, four.sample);
}

TEST(CountPlanes, HoldTheDigitsOfEveryCount) {
  // Element i has i negatives of 64 voters, one of which abstains in a second block.
  const BallotLayout layout = test::make_layout({{1, 64}, {1, 64}});
  Ballots ballots;
  for (int v = 0; v < 64; ++v) {
    ballots.push_back(std::make_unique<Ballot>(layout));
    for (int i = v + 1; i < 64; ++i) ballots.back()->bits().words()[0] |= std::uint64_t{1} << i;
    ballots.back()->bits().words()[8] = 1;
  }
  ballots[9]->abstentions().words()[0] = 2;
  const BallotChunk chunk = layout.chunk(0, 1);
  const ChunkBallots parts(ballots, chunk);
  const NodeCounts node(layout, chunk, parts.parts);
  for (std::uint64_t i = 0; i < 64; ++i) {
    std::uint64_t count = 0;
    for (int k = 0; k < count_digits(64); ++k)
      count |= ((node.part.planes[k * chunk.word_count()] >> i) & 1u) << k;
    EXPECT_EQ(count, i);
  }
  EXPECT_EQ(node.part.voting[0], 64);
  EXPECT_EQ(node.part.voting[1], 63);
  EXPECT_EQ(node.part.planes[8], 1u);  // 63 = 111111b
  EXPECT_EQ(node.part.planes[6 * chunk.word_count() + 8], 0u);
}

TEST(CountPlanes, NeedAsManyDigitsAsTheirVotersHave) {
  EXPECT_EQ(count_digits(1), 1);
  EXPECT_EQ(count_digits(3), 2);
  EXPECT_EQ(count_digits(4), 3);
  EXPECT_EQ(count_digits(1023), 10);
  EXPECT_EQ(count_digits(1024), 11);
}

TEST(AgreementSample, TakesOneWordOfEvery64AndNotTheSameColumn) {
  std::set<std::int64_t> places;
  std::int64_t sampled = 0;
  for (std::int64_t word = 0; word < 64 * 1000; ++word) {
    if (!is_sampled(word)) continue;
    EXPECT_EQ(word / 64, sampled++);
    places.insert(word % 64);
  }
  EXPECT_EQ(sampled, 1000);
  EXPECT_EQ(places.size(), 64u);
  std::vector<std::int64_t> listed;
  for_each_sampled_word(8, 64 * 1000, [&](std::int64_t word) { listed.push_back(word); });
  EXPECT_EQ(listed.size(), 1000u - (sampled_word(0) < 8));
}

TEST(CountPlanes, RefuseWhatTheyCannotCount) {
  const BallotLayout layout = test::make_layout({{1, 64}});
  const BallotChunk chunk = layout.chunk(0, 1);
  ChunkVerdict verdict(chunk, Ties::coin);
  std::vector<std::uint64_t> words(static_cast<std::size_t>(count_words(chunk, 1024)));
  const CountPart full = count_part(words.data(), chunk, 1024);
  EXPECT_THROW(count_ballots(layout, chunk, {}, full), LogicError);
  EXPECT_THROW(count_ballots(layout, chunk, {}, {words.data(), full.voting, 0}), LogicError);
  const std::vector<CountPart> many{full, full};  // 2048 voters
  EXPECT_THROW(tally_counts(layout, chunk, many, {}, verdict.part(), verdict.statistics, nullptr),
               LogicError);
  EXPECT_THROW(tally_counts(layout, chunk, {}, {}, verdict.part(), verdict.statistics, nullptr),
               LogicError);
}

}  // namespace
}  // namespace ballot
