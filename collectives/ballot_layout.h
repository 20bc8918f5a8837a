// Which tensors a ballot holds, where each lies in it, and how it is cut into blocks and chunks.
//
// A ballot is a flat row of elements. Each voted tensor is a segment that starts on a multiple of
// 512 elements, rows padded as in the parameter arena. A block is the unit of abstention: the
// largest power of two up to 512 that divides the segment's row stride (64 at the least), so a
// block never crosses a row and a 64-bit word never crosses a block. A chunk is what one owner
// tallies: whole multiples of 512 elements, as even as that allows. Immutable.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ballot {

inline constexpr std::int64_t kBallotAlignment =
    512;  // elements: a cache line of bits, the largest block

struct BallotSegment {
  std::string name;
  std::int64_t rows = 0;
  std::int64_t cols = 0;          // real elements of a row
  std::int64_t row_stride = 0;    // a multiple of 64
  std::int64_t arena_offset = 0;  // names its elements in coins; a multiple of 512
  // Filled in by the layout:
  std::int64_t offset = 0;       // first element in the ballot, a multiple of 512
  std::int64_t block = 0;        // elements
  std::int64_t first_block = 0;  // number of its first block in the ballot
  std::int64_t extent() const { return rows * row_stride; }
  std::int64_t blocks() const { return extent() / block; }
};

// Elements [begin, end) and blocks [first_block, last_block) of the ballot.
struct BallotChunk {
  std::int64_t begin = 0, end = 0;
  std::int64_t first_block = 0, last_block = 0;
  std::int64_t word_count() const { return (end - begin) / 64; }
};

class BallotLayout {
 public:
  BallotLayout() = default;
  explicit BallotLayout(std::vector<BallotSegment> segments);

  std::span<const BallotSegment> segments() const { return segments_; }
  std::int64_t count() const { return count_; }    // P: real elements
  std::int64_t extent() const { return extent_; }  // elements with padding, a multiple of 512
  std::int64_t blocks() const { return blocks_; }
  BallotChunk chunk(int owner, int owners) const;
  // The same cut of the elements [begin, end), both multiples of 512.
  BallotChunk chunk(std::int64_t begin, std::int64_t end, int owner, int owners) const;
  // Number of the block that holds this element (or of the next one, when it lies in padding after
  // a segment).
  std::int64_t block_of(std::int64_t element) const;
  // Index of the segment whose 512-aligned range holds this element; segments().size() at extent().
  std::size_t segment_of(std::int64_t element) const;
  // Real elements among [begin, end).
  std::int64_t real_elements(std::int64_t begin, std::int64_t end) const;
  // Equal on two workers exactly when their segments are equal (names, shapes, places).
  std::uint64_t digest() const { return digest_; }

 private:
  std::vector<BallotSegment> segments_;
  std::int64_t count_ = 0, extent_ = 0, blocks_ = 0;
  std::uint64_t digest_ = 0;
};

}  // namespace ballot
