// Bits stand where the header says, and move between any positions.
#include "collectives/bit_vector.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <vector>

namespace ballot {
namespace {

TEST(BitVector, ElementIIsBitIMod64OfWordIOver64) {
  BitVector bits(130);
  EXPECT_EQ(bits.word_count(), 3);
  bits.set(0, true);
  bits.set(67, true);
  bits.set(129, true);
  EXPECT_EQ(bits.words()[0], 1u);
  EXPECT_EQ(bits.words()[1], 8u);
  EXPECT_EQ(bits.words()[2], 2u);
  EXPECT_TRUE(bits.get(67));
  EXPECT_FALSE(bits.get(66));
  bits.set(67, false);
  EXPECT_FALSE(bits.get(67));
  bits.clear();
  for (const std::uint64_t word : bits.span()) EXPECT_EQ(word, 0u);
}

TEST(BitVector, IsLittleEndianInMemory) {
  BitVector bits(64);
  bits.set(9, true);
  unsigned char bytes[8];
  std::memcpy(bytes, bits.words(), 8);
  EXPECT_EQ(bytes[0], 0);
  EXPECT_EQ(bytes[1], 2);
}

TEST(BitVector, OfNothingHasNoWords) {
  BitVector bits(0);
  bits.clear();
  EXPECT_EQ(bits.word_count(), 0);
}

RC_GTEST_PROP(CopyBits, MovesEveryBitAndTouchesNoOther, ()) {
  const auto first = *rc::gen::inRange<std::int64_t>(0, 200);
  const auto to = *rc::gen::inRange<std::int64_t>(0, 200);
  const auto count = *rc::gen::inRange<std::int64_t>(0, 300);
  const auto source =
      *rc::gen::container<std::vector<std::uint64_t>>(8, rc::gen::arbitrary<std::uint64_t>());
  const auto before =
      *rc::gen::container<std::vector<std::uint64_t>>(8, rc::gen::arbitrary<std::uint64_t>());
  auto target = before;
  copy_bits(source.data(), first, target.data(), to, count);
  const auto get = [](const std::vector<std::uint64_t>& words, std::int64_t i) {
    return (words[static_cast<std::size_t>(i / 64)] >> (i % 64)) & 1u;
  };
  for (std::int64_t i = 0; i < 512; ++i) {
    const bool inside = i >= to && i < to + count;
    RC_ASSERT(get(target, i) == (inside ? get(source, first + i - to) : get(before, i)));
  }
}

}  // namespace
}  // namespace ballot
