// How the words of a chunk lie in its segments: the walk that every kernel of the tally makes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "collectives/ballot_layout.h"
#include "collectives/bit_vector.h"

namespace ballot {

// Words of a chunk that lie in one segment, and the words of padding between it and the next one.
struct Stretch {
  const BallotSegment* segment;
  std::int64_t inside;  // first element, counted from the segment's start
  std::int64_t word;    // of the chunk
  std::int64_t words;
  std::int64_t padding;      // words after them, before the next segment
  std::int64_t first_block;  // of the chunk

  std::int64_t block_words() const { return segment->block / 64; }
  // Whether every element of the stretch is real.
  bool whole() const { return segment->cols == segment->row_stride; }
  // The real elements of word `w` of the stretch.
  std::uint64_t real(std::int64_t w) const {
    return low_bits(
        std::min<std::int64_t>(64, segment->cols - (inside + w * 64) % segment->row_stride));
  }
  // Names its coins.
  std::int64_t arena_word(std::int64_t w) const {
    return (segment->arena_offset + inside) / 64 + w;
  }
};

// Calls body(stretch) for the words [first, last) of the chunk, multiples of 8, in order.
template <class Body>
void for_each_stretch(const BallotLayout& layout, const BallotChunk& chunk, std::int64_t first,
                      std::int64_t last, const Body& body) {
  const auto segments = layout.segments();
  std::int64_t element = chunk.begin + first * 64;
  const std::int64_t end = chunk.begin + last * 64;
  for (std::size_t i = layout.segment_of(element); element < end; ++i) {
    const BallotSegment& s = segments[i];
    const std::int64_t next =
        std::min(end, i + 1 < segments.size() ? segments[i + 1].offset : layout.extent());
    const std::int64_t inside = element - s.offset;
    Stretch stretch;
    stretch.segment = &s;
    stretch.inside = inside;
    stretch.word = (element - chunk.begin) / 64;
    stretch.words = std::max<std::int64_t>(0, std::min(next, s.offset + s.extent()) - element) / 64;
    stretch.padding = (next - element) / 64 - stretch.words;
    stretch.first_block = s.first_block + inside / s.block - chunk.first_block;
    body(stretch);
    element = next;
  }
}

}  // namespace ballot
