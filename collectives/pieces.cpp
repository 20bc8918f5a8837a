#include "collectives/pieces.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {

Pieces::Pieces(std::vector<std::int64_t> starts, std::int64_t extent, std::int64_t piece,
               std::int64_t alignment)
    : starts_(std::move(starts)) {
  require(piece > 0 && alignment > 0 && extent >= 0, "pieces of {} of {} elements", piece, extent);
  piece = (piece + alignment - 1) / alignment * alignment;
  for (std::int64_t begin = 0; begin < extent; begin += piece)
    ranges_.push_back({begin, std::min(extent, begin + piece)});
  segments_in_.assign(ranges_.size(), 0);
  for (std::size_t s = 0; s < starts_.size(); ++s) {
    const std::int64_t begin = starts_[s], end = s + 1 < starts_.size() ? starts_[s + 1] : extent;
    require(begin < end, "segment {} has the elements [{}, {})", s, begin, end);
    first_piece_.push_back(static_cast<std::size_t>(begin / piece));
    last_piece_.push_back(static_cast<std::size_t>((end - 1) / piece));
    for (std::size_t p = first_piece_[s]; p <= last_piece_[s]; ++p) ++segments_in_[p];
  }
  waiting_ = std::make_unique<std::atomic<std::int32_t>[]>(ranges_.size());
  released_ = std::make_unique<std::atomic<bool>[]>(starts_.size());
  begin();
}

void Pieces::begin() {
  for (std::size_t p = 0; p < ranges_.size(); ++p) waiting_[p] = segments_in_[p];
  for (std::size_t s = 0; s < starts_.size(); ++s) released_[s] = false;
}

void Pieces::release(std::size_t segment) {
  require(segment < starts_.size(), "segment {} of {} is released", segment, starts_.size());
  require(!released_[segment].exchange(true), "segment {} is released twice in a step", segment);
  for (std::size_t p = first_piece_[segment]; p <= last_piece_[segment]; ++p)
    waiting_[p].fetch_sub(1, std::memory_order_acq_rel);
}

std::size_t Pieces::unreleased() const {
  for (std::size_t s = 0; s < starts_.size(); ++s)
    if (!released_[s]) return s;
  return starts_.size();
}

std::int64_t choose_piece(std::int64_t extent, int owners, std::int64_t smallest_message) {
  return std::max<std::int64_t>({extent / 32, owners * smallest_message, 1});
}

std::int64_t choose_mean_piece(std::int64_t extent, int owners) {
  constexpr std::int64_t kSmallest = 1 << 13;  // elements of a message: 32 KiB of fp32
  return std::max<std::int64_t>({extent / 256, owners * kSmallest, 1});
}

std::int64_t smallest_ballot(int voters) {
  const std::int64_t around = 40 + 4 * (5 + 2 * static_cast<std::int64_t>(voters));  // bytes
  return 64 * around * 8;
}

}  // namespace ballot
