// How a collective's elements are cut into pieces that travel one beside the other, and which of
// them may leave: those whose segments have all been released.
//
// release() and released() may run on two threads; begin() on neither meanwhile.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace ballot {

struct PieceRange {
  std::int64_t begin = 0, end = 0;  // elements
};

class Pieces {
 public:
  // Segments start at `starts` (ascending, the first at 0); the last ends at `extent`. Pieces have
  // `piece` elements, the last one what is left; `piece` is rounded up to a multiple of
  // `alignment`.
  Pieces(std::vector<std::int64_t> starts, std::int64_t extent, std::int64_t piece,
         std::int64_t alignment);

  std::span<const PieceRange> ranges() const { return ranges_; }
  std::size_t count() const { return ranges_.size(); }
  std::size_t segments() const { return starts_.size(); }

  void begin();  // nothing is released
  void release(std::size_t segment);
  bool released(std::size_t piece) const {
    return waiting_[piece].load(std::memory_order_acquire) == 0;
  }
  // A segment that has not been released; segments() when all have.
  std::size_t unreleased() const;

 private:
  std::vector<std::int64_t> starts_;
  std::vector<PieceRange> ranges_;
  std::vector<std::size_t> first_piece_, last_piece_;  // by segment: the pieces it reaches into
  std::vector<std::int32_t> segments_in_;              // by piece
  std::unique_ptr<std::atomic<std::int32_t>[]> waiting_;
  std::unique_ptr<std::atomic<bool>[]> released_;
};

// Elements per piece: about thirty-two pieces, so that little is left to send when backward ends,
// but messages of `smallest_message` elements at least.
std::int64_t choose_piece(std::int64_t extent, int owners, std::int64_t smallest_message);

// Elements of a ballot's message of which headers and statistics, which grow with the voters, are
// about 1/64.
std::int64_t smallest_ballot(int voters);

// Elements per piece of a mean, which sends 32 times as much: more pieces of as many bytes.
std::int64_t choose_mean_piece(std::int64_t extent, int owners);

}  // namespace ballot
