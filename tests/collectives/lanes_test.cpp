// Lanes hold every ballot's bits, and their sums every count.
#include "collectives/lanes.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "collectives/count_planes.h"
#include "collectives/lanes_reference.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

std::vector<std::uint64_t> random_words(std::int64_t count, std::mt19937_64& random) {
  std::vector<std::uint64_t> words(static_cast<std::size_t>(count));
  for (std::uint64_t& word : words) word = random();
  return words;
}

std::vector<std::uint32_t> expand(const std::vector<std::uint64_t>& bits, int width) {
  const std::int64_t words = static_cast<std::int64_t>(bits.size());
  // Filled, so that what is not written shows.
  std::vector<std::uint32_t> lanes(static_cast<std::size_t>(lane_values(words, width)), ~0u);
  expand_lanes(bits.data(), words, width, lanes.data());
  return lanes;
}

TEST(Lanes, AreAsNarrowAsTheVotersAllow) {
  for (const auto& [voters, bits] : std::vector<std::pair<int, int>>{
           {1, 2}, {3, 2}, {4, 4}, {15, 4}, {16, 8}, {255, 8}, {256, 16}, {1024, 16}})
    EXPECT_EQ(lane_bits(voters), bits) << voters;
  EXPECT_THROW(lane_bits(0), LogicError);
  EXPECT_THROW(lane_bits(1025), LogicError);
}

TEST(Lanes, LieWhereTheReferencePutsThem) {
  std::mt19937_64 random(1);
  for (const int width : {2, 4, 8, 16})
    for (const std::int64_t words : {0, 8, 16, 24, 8 * 200}) {
      const auto bits = random_words(words, random);
      std::vector<std::uint32_t> slow(static_cast<std::size_t>(lane_values(words, width)));
      expand_lanes_reference(bits.data(), words, width, slow.data());
      ASSERT_EQ(expand(bits, width), slow) << width << " bits, " << words << " words";
    }
}

TEST(Lanes, SumToTheCountsOfAnyNumberOfVoters) {
  std::mt19937_64 random(2);
  for (const int voters : {1, 2, 3, 4, 7, 15, 16, 33, 255, 256, 1024}) {
    constexpr std::int64_t kWords = 24;
    const int width = lane_bits(voters), digits = count_digits(voters);
    std::vector<std::uint32_t> sum(static_cast<std::size_t>(lane_values(kWords, width)));
    std::vector<std::uint32_t> counts(kWords * 64);
    for (int v = 0; v < voters; ++v) {
      auto bits = random_words(kWords, random);
      bits[0] = ~std::uint64_t{0};  // unanimous: the largest count there is
      const auto lanes = expand(bits, width);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += lanes[i];
      for (std::size_t i = 0; i < counts.size(); ++i)
        counts[i] += static_cast<std::uint32_t>((bits[i / 64] >> (i % 64)) & 1u);
    }
    std::vector<std::uint64_t> planes(static_cast<std::size_t>(digits * kWords), 1);
    ASSERT_TRUE(collect_planes(sum.data(), kWords, width, voters, planes.data(), digits));
    for (std::int64_t i = 0; i < kWords * 64; ++i) {
      std::uint32_t count = 0;
      for (int k = 0; k < digits; ++k)
        count |= static_cast<std::uint32_t>(
            ((planes[static_cast<std::size_t>(k * kWords + i / 64)] >> (i % 64)) & 1u) << k);
      ASSERT_EQ(count, counts[static_cast<std::size_t>(i)]) << voters << " voters, element " << i;
      ASSERT_EQ(lane_of(sum.data(), i, width), count);
      ASSERT_EQ(lane_reference(sum.data(), i, width), count);
    }
  }
}

TEST(Lanes, AboveTheNumberOfVotersAreNoSum) {
  for (const int voters : {1, 2, 3, 5, 15, 100, 1000}) {
    const int width = lane_bits(voters), digits = count_digits(voters);
    for (std::int64_t element = 0; element < 512; element += 37) {
      std::vector<std::uint32_t> lanes(static_cast<std::size_t>(lane_values(8, width)));
      std::vector<std::uint64_t> planes(static_cast<std::size_t>(8 * digits));
      const LanePlace place = lane_place_reference(element, width);
      std::uint32_t& value = lanes[static_cast<std::size_t>(place.value)];
      value = static_cast<std::uint32_t>(voters) << place.shift;
      EXPECT_TRUE(collect_planes(lanes.data(), 8, width, voters, planes.data(), digits));
      if (voters + 1 == 1 << width) continue;  // no lane can say more
      value += std::uint32_t{1} << place.shift;
      EXPECT_FALSE(collect_planes(lanes.data(), 8, width, voters, planes.data(), digits));
    }
  }
}

TEST(Lanes, NumberOfThreadsChangesNothing) {
  std::mt19937_64 random(3);
  constexpr std::int64_t kWords = 8 * 300;
  const auto bits = random_words(kWords, random);
  const int threads = thread_count();
  std::vector<std::uint32_t> lanes[2], sums;
  std::vector<std::uint64_t> planes[2];
  for (int i = 0; i < 2; ++i) {
    set_thread_count(1 + 3 * i);
    lanes[i] = expand(bits, 4);
    planes[i].resize(kWords * 3);
    EXPECT_TRUE(collect_planes(lanes[i].data(), kWords, 4, 5, planes[i].data(), 3));
    sums.push_back(linear_checksum(lanes[i].data(), static_cast<std::int64_t>(lanes[i].size())));
  }
  set_thread_count(threads);
  EXPECT_EQ(lanes[0], lanes[1]);
  EXPECT_EQ(planes[0], planes[1]);
  EXPECT_EQ(sums[0], sums[1]);
}

TEST(LinearChecksum, OfASumIsTheSumOfTheChecksums) {
  std::mt19937_64 random(4);
  const std::int64_t count = 70'001;
  std::vector<std::uint32_t> sum(static_cast<std::size_t>(count));
  std::uint32_t checksums = 0;
  for (int rank = 0; rank < 5; ++rank) {
    std::vector<std::uint32_t> values(sum.size());
    for (std::size_t i = 0; i < sum.size(); ++i)
      sum[i] += values[i] = static_cast<std::uint32_t>(random());
    checksums += linear_checksum(values.data(), count);
  }
  EXPECT_EQ(linear_checksum(sum.data(), count), checksums);
}

TEST(LinearChecksum, WeighsEveryPlaceOfEveryLength) {
  std::mt19937_64 random(6);
  std::vector<std::uint32_t> values(100'000);
  for (std::uint32_t& value : values) value = static_cast<std::uint32_t>(random());
  for (const std::int64_t count : {0, 1, 15, 16, 17, 31, 32, 100, 32'768, 99'999, 100'000}) {
    std::uint32_t slow = 0;
    for (std::int64_t i = 0; i < count; ++i)
      slow += static_cast<std::uint32_t>(2 * i + 1) * values[static_cast<std::size_t>(i)];
    EXPECT_EQ(linear_checksum(values.data(), count), slow) << count;
  }
}

TEST(LinearChecksum, ShowsEverySingleChangedBitAndTwoValuesThatChangedPlaces) {
  std::mt19937_64 random(5);
  std::vector<std::uint32_t> values(100);
  for (std::uint32_t& value : values) value = static_cast<std::uint32_t>(random());
  const std::uint32_t checksum = linear_checksum(values.data(), 100);
  for (std::uint32_t& value : values)
    for (int bit = 0; bit < 32; ++bit) {
      value ^= std::uint32_t{1} << bit;
      ASSERT_NE(linear_checksum(values.data(), 100), checksum);
      value ^= std::uint32_t{1} << bit;
    }
  for (std::size_t i = 1; i < values.size(); ++i) {
    std::swap(values[i - 1], values[i]);
    ASSERT_NE(linear_checksum(values.data(), 100), checksum);
    std::swap(values[i - 1], values[i]);
  }
}

}  // namespace
}  // namespace ballot
