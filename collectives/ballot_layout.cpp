#include "collectives/ballot_layout.h"

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"

namespace ballot {
namespace {

std::int64_t round_up(std::int64_t value) {
  return (value + kBallotAlignment - 1) / kBallotAlignment * kBallotAlignment;
}

std::uint64_t digest_of(std::uint64_t digest, const BallotSegment& segment) {
  digest = hash64(digest, segment.name.size(), static_cast<std::uint64_t>(segment.rows),
                  static_cast<std::uint64_t>(segment.cols));
  for (const char c : segment.name) digest = mix64(digest ^ static_cast<unsigned char>(c));
  return hash64(digest, static_cast<std::uint64_t>(segment.row_stride),
                static_cast<std::uint64_t>(segment.arena_offset));
}

}  // namespace

BallotLayout::BallotLayout(std::vector<BallotSegment> segments) : segments_(std::move(segments)) {
  for (BallotSegment& s : segments_) {
    require(s.rows > 0 && s.cols > 0 && s.cols <= s.row_stride,
            "segment {}: {} rows of {} elements, {} apart", s.name, s.rows, s.cols, s.row_stride);
    require(s.row_stride % 64 == 0, "segment {}: rows {} apart, expected a multiple of 64", s.name,
            s.row_stride);
    require(s.arena_offset >= 0 && s.arena_offset % kBallotAlignment == 0,
            "segment {}: arena offset {}, expected a multiple of {}", s.name, s.arena_offset,
            kBallotAlignment);
    s.offset = extent_;
    s.block = std::min(s.row_stride & -s.row_stride,
                       kBallotAlignment);  // its lowest 1 bit: the largest power of two
    s.first_block = blocks_;
    extent_ = round_up(extent_ + s.extent());
    blocks_ += s.blocks();
    count_ += s.rows * s.cols;
    digest_ = digest_of(digest_, s);
  }
}

BallotChunk BallotLayout::chunk(int owner, int owners) const {
  return chunk(0, extent_, owner, owners);
}

BallotChunk BallotLayout::chunk(std::int64_t begin, std::int64_t end, int owner, int owners) const {
  require(owners >= 1 && owner >= 0 && owner < owners, "chunk {} of {}", owner, owners);
  require(begin >= 0 && begin <= end && end <= extent_ && begin % kBallotAlignment == 0 &&
              end % kBallotAlignment == 0,
          "elements [{}, {}) of {}", begin, end, extent_);
  const std::int64_t units = (end - begin) / kBallotAlignment;
  BallotChunk chunk;
  chunk.begin = begin + units * owner / owners * kBallotAlignment;
  chunk.end = begin + units * (owner + 1) / owners * kBallotAlignment;
  chunk.first_block = block_of(chunk.begin);
  chunk.last_block = block_of(chunk.end);
  return chunk;
}

std::size_t BallotLayout::segment_of(std::int64_t element) const {
  require(element >= 0 && element <= extent_, "element {} of {}", element, extent_);
  if (element == extent_) return segments_.size();
  const auto after =
      std::upper_bound(segments_.begin(), segments_.end(), element,
                       [](std::int64_t e, const BallotSegment& s) { return e < s.offset; });
  return static_cast<std::size_t>(after - segments_.begin()) - 1;
}

std::int64_t BallotLayout::block_of(std::int64_t element) const {
  const std::size_t index = segment_of(element);
  if (index == segments_.size()) return blocks_;
  const BallotSegment& s = segments_[index];
  return s.first_block + std::min(element - s.offset, s.extent()) / s.block;
}

std::int64_t BallotLayout::real_elements(std::int64_t begin, std::int64_t end) const {
  // Real elements of a segment before its element e.
  const auto before = [](const BallotSegment& s, std::int64_t e) {
    e = std::clamp<std::int64_t>(e - s.offset, 0, s.extent());
    return e / s.row_stride * s.cols + std::min(e % s.row_stride, s.cols);
  };
  std::int64_t total = 0;
  for (std::size_t i = segment_of(begin); i < segments_.size() && segments_[i].offset < end; ++i)
    total += before(segments_[i], end) - before(segments_[i], begin);
  return total;
}

}  // namespace ballot
