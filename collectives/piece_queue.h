// The order in which the pieces of a collective go: each leaves when all its segments are released
// and all pieces before it have left, a few at a time; what starting one and going on with one
// means is the collective's own. It looks only at pieces that are under way, however many there
// are.
//
// release() may run beside everything but begin().
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "collectives/collective.h"
#include "collectives/pieces.h"

namespace ballot {

enum class Progress { none, moved, done };

class PieceQueue {
 public:
  explicit PieceQueue(Pieces pieces) : pieces_(std::move(pieces)), left_(pieces_.count()) {
    under_way_.reserve(pieces_.count());
  }

  const Pieces& pieces() const { return pieces_; }
  std::size_t count() const { return pieces_.count(); }
  void begin() {
    pieces_.begin();
    left_ = 0;
    under_way_.clear();
  }
  void release(std::size_t segment) { pieces_.release(segment); }
  void limit_in_flight(std::size_t pieces) { in_flight_ = std::max<std::size_t>(1, pieces); }

  // start(piece) for each that may leave, then Progress go_on(piece) for each that is under way, in
  // their order. True when anything moved.
  template <typename Start, typename GoOn>
  bool advance(Start&& start, GoOn&& go_on) {
    bool moved = false;
    while (left_ < count() && under_way_.size() < in_flight_ && pieces_.released(left_)) {
      start(left_);
      under_way_.push_back(left_++);
      moved = true;
    }
    std::erase_if(under_way_, [&](std::size_t piece) {
      const Progress progress = go_on(piece);
      moved |= progress != Progress::none;
      return progress == Progress::done;
    });
    return moved;
  }

  bool all_left() const { return left_ == count(); }
  bool all_done() const { return all_left() && under_way_.empty(); }
  std::span<const std::size_t> under_way() const { return under_way_; }  // ascending

 private:
  Pieces pieces_;
  std::size_t left_;  // pieces that have been started
  std::size_t in_flight_ = kPiecesInFlight;
  std::vector<std::size_t> under_way_;
};

}  // namespace ballot
