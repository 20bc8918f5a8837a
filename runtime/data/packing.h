// Which pieces of which documents stand in which window of T positions.
//
// A document of n tokens takes n - 1 positions: each token but the last, which is predicted only.
// One of more than T + 1 is cut into pieces that share a token, so that each token is predicted
// once. Pieces in which nothing is trained on are left out. The longest is placed first, into the
// fullest window that has room (best-fit decreasing; Johnson, "Near-optimal bin packing
// algorithms", 1973). 16 bytes of memory a piece. Immutable; safe from any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "models/model.h"  // TokenBatch
#include "runtime/data/token_data.h"

namespace ballot {

class Packing {
 public:
  // `windows`: packed or single. `seed`: the order of pieces of one length. `data` must outlive it.
  // DataError where nothing is trained on, or a document is too long and may not be cut.
  Packing(const TokenData& data, Windows windows, LongDocuments policy, std::int64_t length,
          std::uint64_t seed);

  std::int64_t windows() const { return static_cast<std::int64_t>(first_piece_.size()) - 1; }
  std::int64_t positions_used() const { return positions_used_; }
  std::int64_t documents_left_out() const { return left_out_; }
  std::int64_t documents_cut() const { return cut_; }

  // Writes window `window` as row `row` of a batch of this T. Positions that are left predict
  // nothing, and attend to themselves alone.
  void fill(std::int64_t window, std::int64_t row, TokenBatch& batch) const;

 private:
  struct Piece {
    std::int64_t begin = 0;  // its first token
    std::int32_t positions = 0;
  };
  std::vector<Piece> list_pieces(LongDocuments policy);
  void place(std::vector<Piece> pieces, Windows windows, std::uint64_t seed);

  const TokenData& data_;
  std::int64_t length_;
  std::vector<Piece> pieces_;              // by window
  std::vector<std::int64_t> first_piece_;  // of each window, and the end
  std::int64_t positions_used_ = 0, left_out_ = 0, cut_ = 0;
};

// A shuffle of [0, count) that takes no memory: where `place` comes from. A bijection for every
// key (a Feistel network of four rounds; values outside are sent through again).
std::int64_t shuffled(std::int64_t place, std::int64_t count, std::uint64_t key);

}  // namespace ballot
