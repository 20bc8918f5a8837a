// One thread's work on a tile of a chunk: counting ballots into planes, deciding the verdict from
// planes. What tally() and tally_counts() share; private to them.
//
// A tile is 512 words of the ballot (eight runs of the agreement sample), cut off at the chunk's
// ends: 4 KiB a voter, so that counts stay in the first caches between the kernels.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <span>

#include "collectives/chunk_words.h"
#include "collectives/kernels.h"
#include "collectives/tally.h"
#include "core/parallel.h"

namespace ballot {

inline constexpr std::int64_t kTileWords = 512;
inline constexpr std::int64_t kPlaneStride =
    kTileWords + 8;  // not a page: planes keep out of each other's sets

struct Tile {
  std::int64_t first, words;         // of the chunk, multiples of 8
  std::int64_t first_block, blocks;  // of the chunk
};

// Calls body(first tile, last tile) on one thread each, and tile_of() says where they lie.
template <class Body>
void parallel_tiles(const BallotChunk& chunk, const Body& body) {
  const std::int64_t first = chunk.begin / 64 / kTileWords;
  const std::int64_t last = (chunk.end / 64 + kTileWords - 1) / kTileWords;
  if (chunk.begin == chunk.end) return;
  parallel_for(last - first, 2,
               [&](std::int64_t begin, std::int64_t end) { body(first + begin, first + end); });
}
Tile tile_of(const BallotLayout& layout, const BallotChunk& chunk, std::int64_t tile);

// Refuses chunks that are not multiples of 512 elements, and fewer or more voters than can be
// counted.
void require_countable(const BallotLayout& layout, const BallotChunk& chunk, std::int64_t voters);

// Voters by block of a tile.
using TileVoting = std::array<std::uint16_t, kTileWords>;

// The sampled words of a tile, of every voter: copied while a ballot is being counted. With many
// voters a tile's ballots do not stay in a core's cache until their agreement can be told. 64 KiB.
struct TileSample {
  std::int64_t count = 0;       // of places, at most eight
  std::int64_t places[8] = {};  // words of the tile; the first 0 after the last
  alignas(64) std::array<std::uint64_t, kMaxVoters * 8> words;  // eight a voter

  void take(const Tile& tile, std::size_t voter, const BallotPart& ballot) {
    const std::uint64_t* const bits = ballot.bits + tile.first;
    for (std::size_t i = 0; i < 8; ++i) words[voter * 8 + i] = bits[places[i]];
  }
};

// Counts the ballots of a tile; about 70 KiB, to be made once a thread.
class TileCounter {
 public:
  TileCounter(const BallotLayout& layout, const BallotChunk& chunk,
              std::span<const BallotPart> ballots)
      : layout_(layout), chunk_(chunk), ballots_(ballots) {}

  // Writes `digits` planes. True if somebody abstains; then `voting` has been written. `sample` may
  // be null.
  bool count(const Tile& tile, std::uint64_t* planes, std::int64_t stride, int digits,
             TileVoting& voting, TileSample* sample);

  static bool has_silent_blocks(const Tile& tile, const BallotPart& ballot);

 private:
  void find_blocks(const Tile& tile);
  const std::uint64_t* without_silent_blocks(const Tile& tile, const BallotPart& ballot,
                                             std::uint64_t* copy, TileVoting& voting);

  const BallotLayout& layout_;
  const BallotChunk& chunk_;
  std::span<const BallotPart> ballots_;
  std::array<std::uint16_t, kTileWords> block_first_;  // word of the tile, by block of the tile
  std::array<std::uint16_t, kTileWords> block_words_;
  alignas(64) std::array<std::uint64_t, kBatch * kTileWords> copies_;
};

// Bits of a word whose count is above / equal to something.
struct Comparison {
  std::uint64_t more = 0, equal = ~std::uint64_t{0};
};

// Decides a tile's verdict from its planes; about 60 KiB, to be made once a thread.
class TileElection {
 public:
  TileElection(const BallotLayout& layout, const BallotChunk& chunk, int voters,
               const TallyOptions& options, const VerdictPart& verdict);

  std::uint64_t* planes() { return planes_.data(); }  // kPlaneStride apart, to be filled
  int digits() const { return digits_; }
  // `voting` null = all voters in every block.
  void elect(const Tile& tile, const TileVoting* voting);
  // Word `w` of the tile against a number.
  Comparison compare(std::int64_t w, unsigned value) const;

  struct Sums {
    std::int64_t ties = 0, unanimous = 0, held_blocks = 0, held_elements = 0;
  };
  const Sums& sums() const { return sums_; }

 private:
  // Fills real_ (and voting_words_) of a stretch whose words differ.
  void find_real(const Stretch& stretch, const Tile& tile, const TileVoting* voting);
  void hold_blocks(const Stretch& stretch, const Tile& tile, const TileVoting& voting);

  const BallotLayout& layout_;
  const BallotChunk& chunk_;
  const VerdictPart& verdict_;
  int voters_, digits_;
  bool hold_;
  std::uint64_t coin_stream_;
  Sums sums_;
  alignas(64) std::array<std::uint64_t, kMaxDigits * kPlaneStride> planes_;
  std::array<std::uint64_t, kTileWords> real_, voting_words_;
};

// Calls body(word of the tile, stretch, word of the stretch, number of the sample in the chunk) for
// the sampled words of a tile; not for words of padding, which are sampled too.
template <class Body>
void for_each_sample(const BallotLayout& layout, const BallotChunk& chunk, const Tile& tile,
                     const Body& body) {
  for_each_stretch(layout, chunk, tile.first, tile.first + tile.words, [&](const Stretch& s) {
    const std::int64_t origin = chunk.begin / 64;
    for_each_sampled_word(origin + s.word, origin + s.word + s.words, [&](std::int64_t word) {
      body(word - origin - tile.first, s, word - origin - s.word, count_sampled(origin, word));
    });
  });
}

}  // namespace ballot
