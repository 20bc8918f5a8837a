// Segments, blocks and chunks lie where the rules put them.
#include "collectives/ballot_layout.h"

#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "random_ballots.h"

namespace ballot {
namespace {

TEST(BallotLayout, BlockIsTheLargestPowerOfTwoThatDividesTheRow) {
  const BallotLayout layout = test::make_layout(
      {{3, 192}, {3, 576}, {2, 768}, {2, 960}, {2, 2048}, {4, 64}, {1, 1280}, {1, 100}, {2, 512}});
  const std::vector<std::int64_t> blocks = {64, 64, 256, 64, 512, 64, 256, 128, 512};
  for (std::size_t i = 0; i < blocks.size(); ++i)
    EXPECT_EQ(layout.segments()[i].block, blocks[i]) << i;
}

TEST(BallotLayout, SegmentsStartOnMultiplesOf512AndPaddingIsNotCounted) {
  const BallotLayout layout = test::make_layout({{3, 100}, {2, 192}, {1, 64}});
  EXPECT_EQ(layout.segments()[0].offset, 0);
  EXPECT_EQ(layout.segments()[1].offset, 512);
  EXPECT_EQ(layout.segments()[2].offset, 1024);
  EXPECT_EQ(layout.extent(), 1536);
  EXPECT_EQ(layout.count(), 300 + 384 + 64);
  EXPECT_EQ(layout.blocks(), 3 + 6 + 1);
  EXPECT_EQ(layout.block_of(500), 3);  // in the padding after the first segment: the next block
  EXPECT_EQ(layout.block_of(layout.extent()), layout.blocks());
}

TEST(BallotLayout, ChunksCoverEverythingOnceAndDifferByAtMost512) {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 100; ++trial) {
    const BallotLayout layout = test::random_layout(random);
    for (const int owners : {1, 2, 3, 5, 8, 64}) {
      std::int64_t element = 0, block = 0, real = 0, least = layout.extent(), most = 0;
      for (int owner = 0; owner < owners; ++owner) {
        const BallotChunk chunk = layout.chunk(owner, owners);
        ASSERT_EQ(chunk.begin, element);
        ASSERT_EQ(chunk.first_block, block);
        ASSERT_EQ(chunk.begin % 512, 0);
        element = chunk.end;
        block = chunk.last_block;
        real += layout.real_elements(chunk.begin, chunk.end);
        least = std::min(least, chunk.end - chunk.begin);
        most = std::max(most, chunk.end - chunk.begin);
      }
      ASSERT_EQ(element, layout.extent());
      ASSERT_EQ(block, layout.blocks());
      ASSERT_EQ(real, layout.count());
      ASSERT_LE(most - least, 512);
    }
  }
}

TEST(BallotLayout, BlockOfAgreesWithTheSegments) {
  std::mt19937_64 random(2);
  for (int trial = 0; trial < 20; ++trial) {
    const BallotLayout layout = test::random_layout(random);
    for (const BallotSegment& s : layout.segments())
      for (std::int64_t b = 0; b < s.blocks(); ++b) {
        ASSERT_EQ(layout.block_of(s.offset + b * s.block), s.first_block + b);
        ASSERT_EQ(layout.block_of(s.offset + (b + 1) * s.block - 1), s.first_block + b);
      }
  }
}

TEST(BallotLayout, DigestTellsNamesShapesAndPlacesApart) {
  const auto digest = [](const char* name, std::int64_t rows, std::int64_t cols,
                         std::int64_t arena) {
    return BallotLayout({{.name = name,
                          .rows = rows,
                          .cols = cols,
                          .row_stride = 192,
                          .arena_offset = arena}})
        .digest();
  };
  const std::uint64_t base = digest("a", 4, 192, 0);
  EXPECT_EQ(base, digest("a", 4, 192, 0));
  EXPECT_NE(base, digest("b", 4, 192, 0));
  EXPECT_NE(base, digest("a", 5, 192, 0));
  EXPECT_NE(base, digest("a", 4, 190, 0));
  EXPECT_NE(base, digest("a", 4, 192, 512));
}

TEST(BallotLayout, RefusesRowsThatWordsWouldCross) {
  EXPECT_THROW(BallotLayout({{.name = "a", .rows = 2, .cols = 100, .row_stride = 100}}),
               LogicError);
  EXPECT_THROW(BallotLayout({{.name = "a", .rows = 2, .cols = 100, .row_stride = 64}}), LogicError);
  EXPECT_THROW(
      BallotLayout({{.name = "a", .rows = 2, .cols = 64, .row_stride = 64, .arena_offset = 64}}),
      LogicError);
}

}  // namespace
}  // namespace ballot
