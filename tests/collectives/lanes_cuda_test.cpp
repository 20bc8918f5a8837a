// Lanes on a GPU: where bits are spread to, and the verdict of their sums, against plain loops.
#include <gtest/gtest.h>

#include <random>

#include "collectives/lanes.h"
#include "collectives/lanes_reference.h"
#include "device_truth.h"

namespace ballot {
namespace {

using test::DeviceArray;

TEST(LanesOnGpu, LieWhereTheReferencePutsThem) {
  std::mt19937_64 random(1);
  Stream stream(test::cuda_device());
  for (const int width : {2, 4, 8, 16})
    for (const std::int64_t words : {8, 16, 24, 8 * 33, 8 * 100}) {
      std::vector<std::uint64_t> bits(static_cast<std::size_t>(words));
      for (std::uint64_t& word : bits) word = random();
      std::vector<std::uint32_t> expected(static_cast<std::size_t>(lane_values(words, width)));
      expand_lanes_reference(bits.data(), words, width, expected.data());
      const DeviceArray<std::uint64_t> there(bits);
      // Filled, so that what is not written shows.
      const DeviceArray<std::uint32_t> lanes(std::vector<std::uint32_t>(expected.size(), ~0u));
      cuda_vote().spread_lanes(there.data(), words, width, lanes.data(), stream);
      ASSERT_EQ(lanes.read(stream), expected) << width << " bits, " << words << " words";
    }
}

// What an all-reduce makes of everybody's lanes: those of elements, then those of abstentions.
struct Sums {
  Sums(const BallotChunk& chunk, const std::vector<BallotPart>& ballots)
      : width(lane_bits(static_cast<int>(ballots.size()))),
        element_values(static_cast<std::size_t>(lane_values(chunk.word_count(), width))) {
    const std::int64_t blocks = chunk.last_block - chunk.first_block;
    const std::int64_t block_words = (blocks + 511) / 512 * 8;
    values.resize(element_values + static_cast<std::size_t>(lane_values(block_words, width)));
    std::vector<std::uint32_t> one(values.size());
    for (const BallotPart& ballot : ballots) {
      std::vector<std::uint64_t> silent(static_cast<std::size_t>(block_words));
      copy_bits(ballot.abstentions, 0, silent.data(), 0, blocks);
      expand_lanes_reference(ballot.bits, chunk.word_count(), width, one.data());
      expand_lanes_reference(silent.data(), block_words, width, one.data() + element_values);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += one[i];
    }
  }
  int width;
  std::size_t element_values;
  std::vector<std::uint32_t> values;
};

TEST(LanesOnGpu, AreDecidedAsTheReferenceDecidesTheirBallots) {
  for (const int voters : {1, 2, 3, 4, 7, 8, 15, 16, 33, 255, 256, 1024})
    test::for_each_truth(voters, [](test::DeviceTruth& truth) {
      const Sums sums(truth.chunk(), truth.host_parts());
      const DeviceArray<std::uint32_t> lanes(sums.values);
      truth.expect_decided([&](const Deciding& deciding, Stream& stream) {
        cuda_vote().tally_lanes(deciding, lanes.data(), lanes.data() + sums.element_values, stream);
      });
    });
}

TEST(LanesOnGpu, AboveTheNumberOfVotersAreNoSum) {
  const BallotLayout layout = test::make_layout({{2, 512}, {1, 64}});
  const BallotChunk chunk = layout.chunk(0, 1);
  Stream stream(test::cuda_device());
  const DeviceChunk there(layout, chunk, test::cuda_device());
  const auto words = static_cast<std::size_t>(chunk.word_count());
  const DeviceArray<std::uint64_t> bits(words), blocks(1);
  for (const int voters : {1, 2, 5, 15, 100, 1000}) {
    const int width = lane_bits(voters);
    const std::int64_t values = lane_values(chunk.word_count(), width);
    DeviceDecision decision(there, voters);
    const auto is_a_sum = [&](std::int64_t element, bool of_blocks, int count) {
      std::vector<std::uint32_t> sums(static_cast<std::size_t>(values + lane_values(8, width)));
      const LanePlace place = lane_place_reference(element, width);
      sums[static_cast<std::size_t>((of_blocks ? values : 0) + place.value)] =
          static_cast<std::uint32_t>(count) << place.shift;
      const DeviceArray<std::uint32_t> lanes(sums);
      cuda_vote().tally_lanes(
          decision.begin({}, {bits.data(), blocks.data(), nullptr}, nullptr, stream), lanes.data(),
          lanes.data() + values, stream);
      decision.fetch(stream);
      stream.synchronize();
      VoteStatistics statistics;
      return decision.read(statistics);
    };
    for (const std::int64_t element : {0, 63, 64, 700, 1024 + 5}) {
      EXPECT_TRUE(is_a_sum(element, false, voters)) << voters << " at " << element;
      if (voters + 1 < 1 << width) {
        EXPECT_FALSE(is_a_sum(element, false, voters + 1)) << voters << " at " << element;
        EXPECT_FALSE(is_a_sum(element, false, (1 << width) - 1)) << voters << " at " << element;
      }
    }
    for (const std::int64_t block : {0, 1, 2}) {
      EXPECT_TRUE(is_a_sum(block, true, voters)) << voters << " in block " << block;
      if (voters + 1 < 1 << width) {
        EXPECT_FALSE(is_a_sum(block, true, voters + 1)) << voters << " in block " << block;
      }
    }
  }
}

}  // namespace
}  // namespace ballot
