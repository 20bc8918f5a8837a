#include "collectives/mean_slices.h"

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"

namespace ballot {

MeanSegments::MeanSegments(const std::vector<std::int64_t>& lengths) {
  for (const std::int64_t length : lengths) {
    require(length > 0, "segment {} of a mean has {} elements", starts.size(), length);
    starts.push_back(count);
    count += length;
  }
}

Slice MeanSegments::slice(PieceRange piece, int owner, int owners) const {
  const std::int64_t units = (piece.end - piece.begin + kSliceAlignment - 1) / kSliceAlignment;
  const auto cut = [&](int at) {
    return std::min(piece.end, piece.begin + units * at / owners * kSliceAlignment);
  };
  return between(cut(owner), cut(owner + 1));
}

Slice MeanSegments::between(std::int64_t begin, std::int64_t end) const {
  Slice slice{begin, end, 0, 0};
  if (begin == end) return slice;
  slice.first =
      static_cast<std::size_t>(std::ranges::upper_bound(starts, begin) - starts.begin()) - 1;
  slice.last = static_cast<std::size_t>(std::ranges::lower_bound(starts, end) - starts.begin());
  return slice;
}

std::uint64_t MeanSegments::digest(DType wire, int ranks, std::size_t pieces) const {
  std::uint64_t digest =
      hash64(static_cast<std::uint64_t>(wire), static_cast<std::uint64_t>(ranks), starts.size());
  digest = mix64(digest ^ pieces);
  for (std::size_t s = 0; s < starts.size(); ++s)
    digest = mix64(digest ^ static_cast<std::uint64_t>(end_of(s) - starts[s]));
  return digest;
}

}  // namespace ballot
