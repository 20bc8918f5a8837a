// Casting and tallying on a GPU against the CPU, bit for bit.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "collectives/device_tally.h"
#include "random_ballots.h"
#include "tests/cuda/mirror.h"

namespace ballot {
namespace {

using test::DeviceArray;
using test::Mirror;

// Single words, rows with padding, every size of block, several thread blocks.
BallotLayout all_shapes() {
  return test::make_layout({{1, 1},
                            {1, 63},
                            {1, 64},
                            {3, 65},
                            {7, 512},
                            {33, 1000},
                            {5, 192},
                            {2, 70, 256},
                            {40, 576},
                            {4, 100, 320}});
}

std::vector<float> random_direction(const BallotSegment& s, double share_of_zeros,
                                    std::mt19937_64& random) {
  std::vector<float> x(static_cast<std::size_t>(s.extent()), 1e30f);  // padding: not to be read
  std::normal_distribution<float> normal;
  for (std::int64_t row = 0; row < s.rows; ++row)
    for (std::int64_t col = 0; col < s.cols; ++col) {
      const bool zero = std::uniform_real_distribution<>()(random) < share_of_zeros;
      x[static_cast<std::size_t>(row * s.row_stride + col)] =
          zero ? (random() & 1u ? 0.0f : -0.0f) : normal(random);
    }
  return x;
}

std::int64_t cast_on_gpu(const std::vector<float>& x, const BallotSegment& s,
                         const CastOptions& options, std::span<const std::uint8_t> silent_rows,
                         Ballot& ballot, Stream& stream) {
  const Mirror direction(
      make_matrix(const_cast<float*>(x.data()), DType::f32, s.rows, s.cols, s.row_stride));
  return cast_ballot(direction, s, options, silent_rows, ballot, stream);
}

void expect_equal(const Ballot& gpu, const Ballot& cpu) {
  for (std::int64_t w = 0; w < cpu.bits().word_count(); ++w)
    ASSERT_EQ(gpu.bits().words()[w], cpu.bits().words()[w]) << "word " << w;
  for (std::int64_t w = 0; w < cpu.abstentions().word_count(); ++w)
    ASSERT_EQ(gpu.abstentions().words()[w], cpu.abstentions().words()[w]) << "abstentions " << w;
}

TEST(CastOnGpu, EqualsTheCpuInEveryShape) {
  Stream stream(test::cuda_device());
  std::mt19937_64 random(3);
  const BallotLayout layout = all_shapes();
  Ballot gpu(layout, test::cuda_device()), cpu(layout);
  for (int trial = 0; trial < 6; ++trial)
    for (const BallotSegment& s : layout.segments()) {
      const CastOptions options{.seed = random(),
                                .step = trial,
                                .voter = trial % 5,
                                .abstain_below = std::vector{0.0, 2.0, 0.5}[trial % 3]};
      const auto x = random_direction(s, std::vector{0.0, 0.1, 0.97}[random() % 3], random);
      std::vector<std::uint8_t> silent(trial % 2 == 0 ? 0 : static_cast<std::size_t>(s.rows));
      for (auto& flag : silent) flag = random() % 3 == 0;
      EXPECT_EQ(cast_on_gpu(x, s, options, silent, gpu, stream),
                test::cast(x, s, options, silent, cpu))
          << s.name << ", trial " << trial;
      expect_equal(gpu, cpu);
    }
}

TEST(CastOnGpu, EqualsTheCpuOnRandomLayouts) {
  Stream stream(test::cuda_device());
  std::mt19937_64 random(17);
  for (int trial = 0; trial < 8; ++trial) {
    const BallotLayout layout = test::random_layout(random);
    Ballot gpu(layout, test::cuda_device()), cpu(layout);
    for (const BallotSegment& s : layout.segments()) {
      const auto x = random_direction(s, 0.3, random);
      const CastOptions options{.seed = 5, .step = trial, .voter = 1};
      EXPECT_EQ(cast_on_gpu(x, s, options, {}, gpu, stream), test::cast(x, s, options, {}, cpu));
    }
    expect_equal(gpu, cpu);
  }
}

TEST(CastOnGpu, ZerosTinyAndEndlessNumbersAndNansVoteAsOnTheCpu) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float tiny = std::numeric_limits<float>::denorm_min();
  Stream stream(test::cuda_device());
  const BallotLayout layout = test::make_layout({{9, 192}});
  const BallotSegment& s = layout.segments()[0];
  for (const float special : {0.0f, -0.0f, tiny, -tiny, infinity, -infinity, nan, -nan})
    for (const double below : {0.0, 1.0, 1e30}) {
      std::vector<float> x(static_cast<std::size_t>(s.extent()), -0.0f);
      x[64] = x[191] = x[192 * 5] = special;
      x[192 * 7 + 3] = -1.5f;
      Ballot gpu(layout, test::cuda_device()), cpu(layout);
      const CastOptions options{.seed = 4, .abstain_below = below};
      EXPECT_EQ(cast_on_gpu(x, s, options, {}, gpu, stream), test::cast(x, s, options, {}, cpu))
          << special << " below " << below;
      expect_equal(gpu, cpu);
    }
}

TEST(CastOnGpu, OverwritesItsSegmentAndNoNeighbour) {
  Stream stream(test::cuda_device());
  const BallotLayout layout = test::make_layout({{3, 64}, {5, 64}, {3, 64}});
  const std::vector<float> negative(512, -1.0f), zeros(512, 0.0f);
  Ballot ballot(layout, test::cuda_device());
  const auto& segments = layout.segments();
  cast_on_gpu(negative, segments[0], {}, {}, ballot, stream);
  cast_on_gpu(zeros, segments[2], {}, {}, ballot, stream);
  EXPECT_EQ(cast_on_gpu(zeros, segments[1], {}, {}, ballot, stream), 5);
  EXPECT_EQ(ballot.abstentions().words()[0], 0b111'11111'000u);
  EXPECT_EQ(cast_on_gpu(negative, segments[1], {}, {}, ballot, stream), 0);
  EXPECT_EQ(ballot.abstentions().words()[0], 0b111'00000'000u);
  EXPECT_EQ(ballot.bits().words()[0], ~std::uint64_t{0});
  EXPECT_EQ(ballot.bits().words()[8], ~std::uint64_t{0});
  EXPECT_EQ(ballot.bits().words()[16], 0u);
}

// One chunk's ballots on the device, tallied there and by the reference.
void expect_tallied_alike(const BallotLayout& layout, const BallotChunk& chunk, int voters,
                          test::Mood mood, Ties ties, std::mt19937_64& random) {
  Stream stream(test::cuda_device());
  const auto ballots = test::random_ballots(layout, voters, mood, random);
  const test::ChunkBallots host(ballots, chunk);
  std::vector<std::uint64_t> all;  // a ballot's bits, its abstentions, the next one's
  for (std::size_t v = 0; v < ballots.size(); ++v) {
    all.insert(all.end(), host.parts[v].bits, host.parts[v].bits + chunk.word_count());
    all.insert(all.end(), host.abstentions[v].begin(), host.abstentions[v].end());
  }
  const DeviceArray<std::uint64_t> memory(all);
  std::vector<BallotPart> parts;
  const std::size_t each = all.size() / ballots.size();
  for (std::size_t v = 0; v < ballots.size(); ++v) {
    const std::uint64_t* const bits = memory.data() + v * each;
    parts.push_back({bits, bits + chunk.word_count()});
  }
  test::ChunkVerdict expected(chunk, ties);
  const TallyOptions options{.seed = 11, .step = 3, .ties = ties};
  const std::size_t segments = layout.segments().size();
  SegmentAgreement expected_by_segment(segments, static_cast<std::size_t>(voters));
  SegmentAgreement by_segment = expected_by_segment;
  tally_reference(layout, chunk, host.parts, options, expected.part(), expected.statistics,
                  &expected_by_segment);

  const DeviceArray<std::uint64_t> bits(test::ChunkVerdict(chunk, ties).bits);
  const DeviceArray<std::uint64_t> blocks(test::ChunkVerdict(chunk, ties).held_blocks);
  const DeviceArray<std::uint64_t> elements(test::ChunkVerdict(chunk, ties).held_elements);
  DeviceTally tally(layout, chunk, voters, test::cuda_device());
  VoteStatistics statistics;
  for (int times = 0; times < 2; ++times) {  // nothing is left from the step before
    tally.count(parts, options,
                {bits.data(), blocks.data(), ties == Ties::hold ? elements.data() : nullptr},
                stream);
    tally.statistics(statistics, stream);
  }
  tally.read_statistics(statistics, &by_segment);
  EXPECT_EQ(by_segment, expected_by_segment);
  EXPECT_EQ(bits.read(stream), expected.bits);
  EXPECT_EQ(blocks.read(stream), expected.held_blocks);
  EXPECT_EQ(elements.read(stream), expected.held_elements);
  EXPECT_EQ(statistics.elements, expected.statistics.elements);
  EXPECT_EQ(statistics.ties, expected.statistics.ties);
  EXPECT_EQ(statistics.unanimous, expected.statistics.unanimous);
  EXPECT_EQ(statistics.held_blocks, expected.statistics.held_blocks);
  EXPECT_EQ(statistics.blocks, expected.statistics.blocks);
  EXPECT_EQ(statistics.agreed, expected.statistics.agreed);
  EXPECT_EQ(statistics.compared, expected.statistics.compared);
}

TEST(TallyOnGpu, EqualsItsReferenceForEveryNumberOfVoters) {
  std::mt19937_64 random(5);
  const BallotLayout layout = test::make_layout({{3, 65}, {9, 512}, {5, 1000}, {2, 70, 256}});
  for (const int voters : {1, 2, 3, 4, 7, 8, 15, 16, 33})
    for (const auto mood : {test::Mood::random, test::Mood::unanimous, test::Mood::silent})
      for (const Ties ties : {Ties::coin, Ties::hold}) {
        SCOPED_TRACE(testing::Message() << voters << " voters, mood " << static_cast<int>(mood));
        expect_tallied_alike(layout, layout.chunk(0, 1), voters, mood, ties, random);
      }
}

TEST(TallyOnGpu, CountsUpTo1024Voters) {
  std::mt19937_64 random(6);
  const BallotLayout layout = test::make_layout({{1, 65}, {1, 200}});
  for (const int voters : {300, 1024})
    for (const auto mood : {test::Mood::random, test::Mood::unanimous}) {
      SCOPED_TRACE(testing::Message() << voters << " voters, mood " << static_cast<int>(mood));
      expect_tallied_alike(layout, layout.chunk(0, 1), voters, mood, Ties::coin, random);
    }
}

TEST(TallyOnGpu, EveryChunkOfRandomLayouts) {
  std::mt19937_64 random(7);
  for (int trial = 0; trial < 4; ++trial) {
    const BallotLayout layout = test::random_layout(random);
    for (int owner = 0; owner < 3; ++owner) {
      const BallotChunk chunk = layout.chunk(owner, 3);
      if (chunk.begin == chunk.end) continue;
      expect_tallied_alike(layout, chunk, 4 + trial, test::Mood::random, Ties::hold, random);
    }
  }
}

// A tally that is told of other ballots meanwhile still counts those that it was given.
TEST(TallyOnGpu, CountsTheBallotsThatItWasGiven) {
  Stream stream(test::cuda_device());
  const BallotLayout layout = test::make_layout({{2, 64}});
  const BallotChunk chunk = layout.chunk(0, 1);
  const auto words = static_cast<std::size_t>(chunk.word_count());
  const std::uint64_t all = ~std::uint64_t{0};
  const DeviceArray<std::uint64_t> zeros(std::vector<std::uint64_t>(words, 0)),
      ones(std::vector<std::uint64_t>(words, all)), nobody(std::vector<std::uint64_t>(words, 0));
  const DeviceArray<std::uint64_t> first(words), second(words), blocks(words);
  DeviceTally tally(layout, chunk, 1, test::cuda_device());
  const TallyOptions options{.seed = 1};
  const auto count = [&](const DeviceArray<std::uint64_t>& ballot,
                         const DeviceArray<std::uint64_t>& verdict) {
    tally.count(std::vector{BallotPart{ballot.data(), nobody.data()}}, options,
                {verdict.data(), blocks.data(), nullptr}, stream);
  };
  count(ones, first);
  count(zeros, second);
  EXPECT_EQ(first.read(stream)[1], all);
  EXPECT_EQ(second.read(stream)[1], 0u);
}

// Several thread blocks, and enough words that agreement is sampled in more than one of them.
TEST(TallyOnGpu, AgreementIsMeasuredOnTheSameWords) {
  std::mt19937_64 random(8);
  const BallotLayout layout = test::make_layout({{40, 1024}, {3, 4096}, {100, 192}});
  expect_tallied_alike(layout, layout.chunk(0, 1), 3, test::Mood::random, Ties::coin, random);
  expect_tallied_alike(layout, layout.chunk(1, 2), 4, test::Mood::random, Ties::coin, random);
}

}  // namespace
}  // namespace ballot
