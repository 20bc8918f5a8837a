// How a mean's elements are cut, alike on the host and between GPUs: segments one after the other,
// pieces of them, and of each piece a slice for every owner. Private to collectives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "collectives/pieces.h"  // PieceRange
#include "core/tensor.h"         // DType

namespace ballot {

inline constexpr std::int64_t kSliceAlignment = 16;  // elements: a cache line of fp32

// Of all elements [begin, end), which lie in segments [first, last).
struct Slice {
  std::int64_t begin = 0, end = 0;
  std::size_t first = 0, last = 0;
  std::int64_t count() const { return end - begin; }
  std::size_t segments() const { return last - first; }
};

struct MeanSegments {
  explicit MeanSegments(const std::vector<std::int64_t>& lengths);  // each at least 1

  std::vector<std::int64_t> starts;
  std::int64_t count = 0;  // elements
  std::int64_t end_of(std::size_t segment) const {
    return segment + 1 < starts.size() ? starts[segment + 1] : count;
  }
  // What of a piece is the owner's.
  Slice slice(PieceRange piece, int owner, int owners) const;
  Slice between(std::int64_t begin, std::int64_t end) const;
  // Of what both sides of a message must agree on.
  std::uint64_t digest(DType wire, int ranks, std::size_t pieces) const;
};

}  // namespace ballot
