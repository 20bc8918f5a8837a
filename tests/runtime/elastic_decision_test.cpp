// Chunks decided by their owners, put together, are the vote and the means of the fixed job: for
// every number of owners, whoever they are.
#include "runtime/elastic/chunk_decision.h"

#include <gtest/gtest.h>

#include <mutex>
#include <random>

#include "collectives/mean.h"
#include "collectives/transport/loopback_transport.h"
#include "collectives/vote.h"
#include "models/architecture.h"
#include "models/model_folder.h"
#include "runtime/elastic/step_figures.h"
#include "runtime/elastic/voter_ballot.h"
#include "tests/support/tiny_run.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kSeed = 11;
constexpr std::int64_t kStep = 3;

class ElasticDecision : public testing::TestWithParam<Ties> {
 protected:
  ElasticDecision()
      : config_(run_.run("out", "[optimizer]\npreset = \"olion\"\n")),
        arena_(read_architecture(config_.model_folder)->parameter_shapes(), DType::f32),
        state_(arena_, config_.groups),
        layout_(state_) {}

  // Random bits with whole blocks silent, means with tensors left out.
  VoterBallot random_ballot(int voter) const {
    std::mt19937_64 random(static_cast<std::uint64_t>(voter) * 77 + 1);
    VoterBallot ballot(layout_);
    for (std::int64_t b = 0; b < layout_.voted().blocks(); ++b)
      ballot.bits->abstentions().words()[b / 64] |= std::uint64_t{random() % 5 == 0} << (b % 64);
    for (const BallotSegment& s : layout_.voted().segments())
      for (std::int64_t e = 0; e < s.extent(); ++e)
        if (e % s.row_stride < s.cols &&
            !ballot.bits->abstentions().get(s.first_block + e / s.block) && random() % 2 == 0)
          ballot.bits->bits().words()[(s.offset + e) / 64] |= std::uint64_t{1}
                                                              << ((s.offset + e) % 64);
    for (std::size_t wire = 0; wire < 2; ++wire) {
      for (float& value : ballot.means[wire])
        value = static_cast<float>(static_cast<double>(random() % 100000) / 3e4 - 1.5);
      for (std::uint8_t& counts : ballot.contributes[wire]) counts = random() % 4 != 0;
    }
    ballot.loss = {static_cast<double>(voter) + 0.5, 10};
    ballot.loss_fault = voter == 1;
    return ballot;
  }

  TinyRun run_;
  RunConfig config_;
  ParameterArena arena_;
  OptimizerState state_;
  StepLayout layout_;
};

TEST_P(ElasticDecision, IsTheVoteOfAFixedJobForAnyNumberOfOwners) {
  ASSERT_GT(layout_.voted().count(), 0);
  ASSERT_GT(layout_.mean_extent(0), 0);
  for (const int voters : {1, 2, 3, 5}) {
    std::vector<VoterBallot> ballots;
    for (int v = 0; v < voters; ++v) ballots.push_back(random_ballot(v));
    Verdict expected;
    std::vector<float> mean;
    std::vector<std::int32_t> contributors;
    run_loopback(voters, [&](Transport& transport) {
      VoteOptions options;
      options.seed = kSeed;
      options.ties = GetParam();
      const VoterBallot& mine = ballots[static_cast<std::size_t>(transport.rank())];
      const auto vote = make_vote(*mine.bits, transport, options, Deadline::in(60s));
      vote->elect(kStep, Deadline::in(60s));
      Mean means(layout_.mean_lengths(0), DType::f32, transport);
      means.begin(kStep);
      std::ranges::copy(mine.means[0], means.values().begin());
      std::ranges::copy(mine.contributes[0], means.contributes().begin());
      means.reduce(Deadline::in(60s));
      if (transport.rank() != 0) return;
      expected.bits = BitVector(layout_.voted().extent());
      expected.held_blocks = BitVector(layout_.voted().blocks());
      std::ranges::copy(vote->verdict().bits.span(), expected.bits.words());
      std::ranges::copy(vote->verdict().held_blocks.span(), expected.held_blocks.words());
      if (GetParam() == Ties::hold) {
        expected.held_elements = BitVector(layout_.voted().extent());
        std::ranges::copy(vote->verdict().held_elements.span(), expected.held_elements.words());
      }
      mean.assign(means.values().begin(), means.values().end());
      contributors.assign(means.contributors().begin(), means.contributors().end());
    });
    for (const int owners : {1, 2, 3, 7, 1000}) {
      for (int chunk = 0; chunk < owners; ++chunk) {
        std::vector<BallotData> parts;
        for (const VoterBallot& b : ballots) parts.push_back(part_of(b, layout_, chunk, owners));
        std::vector<CountedBallot> counted;
        for (int v = 0; v < voters; ++v) {
          const BallotData& part = parts[static_cast<std::size_t>(v)];
          ASSERT_TRUE(has_sizes_of(part, layout_, chunk, owners));
          counted.push_back({v, &part});
        }
        ChunkVerdict decided =
            decide_chunk(layout_, chunk, owners, counted, {kSeed, kStep, GetParam()});
        const BallotChunk c = layout_.voted().chunk(chunk, owners);
        for (std::size_t w = 0; w < decided.verdict.bits.size(); ++w)
          ASSERT_EQ(decided.verdict.bits[w], expected.bits.words()[c.begin / 64 + w]);
        for (std::size_t w = 0; w < decided.verdict.held_elements.size(); ++w)
          ASSERT_EQ(decided.verdict.held_elements[w],
                    expected.held_elements.words()[c.begin / 64 + w]);
        for (std::int64_t b = c.first_block; b < c.last_block; ++b) {
          const std::int64_t i = b - c.first_block;
          ASSERT_EQ((decided.verdict.held_blocks[i / 64] >> (i % 64)) & 1u,
                    expected.held_blocks.get(b));
        }
        decided.factors.resize(chunk == 0 ? arena_.parameters().size() : 0);
        EXPECT_TRUE(
            has_sizes_of(decided, layout_, GetParam(), chunk, owners, arena_.parameters().size()));
        if (chunk != 0) {
          EXPECT_TRUE(decided.means.empty());
          continue;
        }
        ASSERT_EQ(decided.means.size(), layout_.mean_lengths(1).empty() ? 1u : 2u);
        EXPECT_EQ(decided.means[0].values, mean);  // every bit: the same sums in the same order
        EXPECT_EQ(decided.means[0].contributors, contributors);
        EXPECT_EQ(decided.figures.tokens,
                  10 * (voters > 1 ? voters - 1 : voters));  // voter 1's is NaN
        EXPECT_EQ(decided.figures.loss_faults, voters > 1 ? 1 : 0);
      }
    }
  }
}

// Of all chunks together they are those of the whole vote, whoever owns which.
TEST_P(ElasticDecision, FiguresOfItsChunksAreThoseOfTheVote) {
  constexpr int kVoters = 3;
  std::vector<VoterBallot> ballots;
  for (int v = 0; v < kVoters; ++v) ballots.push_back(random_ballot(v));
  VoteStatistics expected;
  SegmentAgreement tensors(layout_.voted().segments().size(), kVoters);
  std::mutex mutex;
  run_loopback(kVoters, [&](Transport& transport) {
    VoteOptions options;
    options.seed = kSeed;
    options.ties = GetParam();
    const auto vote = make_vote(*ballots[static_cast<std::size_t>(transport.rank())].bits,
                                transport, options, Deadline::in(60s));
    vote->elect(kStep, Deadline::in(60s));
    if (transport.rank() == 0) expected = vote->verdict().statistics;
    const std::lock_guard lock(mutex);
    for (std::size_t t = 0; t < tensors.segments(); ++t)
      for (std::size_t v = 0; v < kVoters; ++v)
        tensors.add(t, v, vote->counted().agreed(t, v), vote->counted().compared(t, v));
  });
  Record record;
  record.step = kStep + 1;
  std::vector<ChunkFigures> figures;
  for (int chunk = 0; chunk < kVoters; ++chunk) {
    std::vector<BallotData> parts;
    for (const VoterBallot& b : ballots) parts.push_back(part_of(b, layout_, chunk, kVoters));
    std::vector<CountedBallot> counted;
    for (int v = 0; v < kVoters; ++v) counted.push_back({v, &parts[static_cast<std::size_t>(v)]});
    ChunkVerdict decided =
        decide_chunk(layout_, chunk, kVoters, counted, {kSeed, kStep, GetParam()});
    decided.verdict.counted = {7};
    record.chunks.push_back(decided.verdict);
    figures.push_back(decided.figures);
  }
  EXPECT_EQ(figures_of(record, figures).votes, expected);
  EXPECT_EQ(figures_of(record, figures).tensors, tensors);

  // A voter that one chunk's owner did not count has what the others say of it.
  record.chunks[1].counted = {5};
  VoteStatistics& one = figures[1].votes;
  const std::int64_t agreed = one.agreed[1], compared = one.compared[1];
  for (std::size_t t = figures[1].tensor_agreed.size() / kVoters; t-- > 0;) {
    const auto place = static_cast<std::ptrdiff_t>(t * kVoters + 1);
    tensors.add(static_cast<std::size_t>(figures[1].first_tensor) + t, 1,
                -figures[1].tensor_agreed[static_cast<std::size_t>(place)],
                -figures[1].tensor_compared[static_cast<std::size_t>(place)]);
    figures[1].tensor_agreed.erase(figures[1].tensor_agreed.begin() + place);
    figures[1].tensor_compared.erase(figures[1].tensor_compared.begin() + place);
  }
  one.agreed.erase(one.agreed.begin() + 1);
  one.compared.erase(one.compared.begin() + 1);
  expected.agreed[1] -= agreed;
  expected.compared[1] -= compared;
  EXPECT_EQ(figures_of(record, figures).votes, expected);
  EXPECT_EQ(figures_of(record, figures).tensors, tensors);
}

TEST_P(ElasticDecision, APartOfAnotherSizeIsTold) {
  const VoterBallot ballot = random_ballot(0);
  BallotData part = part_of(ballot, layout_, 0, 2);
  EXPECT_TRUE(has_sizes_of(part, layout_, 0, 2));
  EXPECT_FALSE(has_sizes_of(part, layout_, 1, 2));
  EXPECT_FALSE(has_sizes_of(part, layout_, 0, 3));
  part.bits.pop_back();
  EXPECT_FALSE(has_sizes_of(part, layout_, 0, 2));
  part = part_of(ballot, layout_, 0, 2);
  part.gradients[0].push_back(0);
  EXPECT_FALSE(has_sizes_of(part, layout_, 0, 2));
  part = part_of(ballot, layout_, 0, 2);
  part.contributes.clear();
  EXPECT_FALSE(has_sizes_of(part, layout_, 0, 2));
}

INSTANTIATE_TEST_SUITE_P(Ties, ElasticDecision, testing::Values(Ties::coin, Ties::hold));

}  // namespace
}  // namespace ballot
