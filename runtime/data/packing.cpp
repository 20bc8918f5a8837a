#include "runtime/data/packing.h"

#include <algorithm>
#include <bit>
#include <set>

#include "core/error.h"
#include "core/hash.h"

namespace ballot {
namespace {

constexpr std::uint64_t kPieceStream = 0x7069656365;  // "piece": apart from what else the seed is
constexpr std::uint64_t kShuffleStream = 0x73687566;  // "shuf"

bool any_trained(const TokenView& tokens, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i)
    if (tokens.trained(i)) return true;
  return false;
}

}  // namespace

std::int64_t shuffled(std::int64_t place, std::int64_t count, std::uint64_t key) {
  require(place >= 0 && place < count, "place {} of {}", place, count);
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(count - 1))),
            half = std::max(1, (bits + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  auto value = static_cast<std::uint64_t>(place);
  do {
    std::uint64_t left = value >> half, right = value & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t next = left ^ (hash64(key, kShuffleStream, round, right) & mask);
      left = right;
      right = next;
    }
    value = left << half | right;
  } while (value >= static_cast<std::uint64_t>(count));
  return static_cast<std::int64_t>(value);
}

Packing::Packing(const TokenData& data, Windows windows, LongDocuments policy, std::int64_t length,
                 std::uint64_t seed)
    : data_(data), length_(length) {
  require(windows == Windows::packed || windows == Windows::single, "packing of a stream");
  require(length > 0 && length <= INT32_MAX, "windows of {} tokens", length);
  place(list_pieces(policy), windows, seed);
  if (this->windows() == 0)
    throw DataError("{}: none of its {} documents has a token to train on", data.name(),
                    data.documents());
}

std::vector<Packing::Piece> Packing::list_pieces(LongDocuments policy) {
  std::vector<Piece> pieces;
  for (std::int64_t d = 0; d < data_.documents(); ++d) {
    const std::int64_t begin = data_.document_begin(d), end = data_.document_end(d);
    if (end - begin > length_ + 1) {
      if (policy == LongDocuments::refuse)
        throw DataError(
            "{}: document {} has {} tokens, data.sequence_length = {} takes {}; with "
            "data.long_documents = \"cut\" it would be cut into windows",
            data_.name(), d + 1, end - begin, length_, length_ + 1);
      ++cut_;
    }
    bool used = false;
    for (std::int64_t at = begin; at + 1 < end; at += length_) {
      const std::int64_t positions = std::min(length_, end - 1 - at);
      if (!any_trained(data_.tokens(), at + 1, at + 1 + positions)) continue;
      pieces.push_back({at, static_cast<std::int32_t>(positions)});
      positions_used_ += positions;
      used = true;
    }
    if (!used) ++left_out_;
  }
  return pieces;
}

void Packing::place(std::vector<Piece> pieces, Windows windows, std::uint64_t seed) {
  struct Ranked {
    Piece piece;
    std::uint64_t rank = 0;
    std::int64_t window = 0;
  };
  std::vector<Ranked> ranked;
  ranked.reserve(pieces.size());
  for (const Piece& piece : pieces)
    ranked.push_back(
        {piece, hash64(seed, kPieceStream, static_cast<std::uint64_t>(piece.begin)), 0});
  pieces = {};
  std::sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) {
    if (a.piece.positions != b.piece.positions) return a.piece.positions > b.piece.positions;
    if (a.rank != b.rank) return a.rank < b.rank;
    return a.piece.begin < b.piece.begin;
  });
  std::vector<std::vector<std::int64_t>> with_room(static_cast<std::size_t>(length_) + 1);
  std::set<std::int64_t> rooms;  // that some window has
  std::int64_t count = 0;
  for (Ranked& item : ranked) {
    const std::int64_t needed = item.piece.positions;
    const auto room = windows == Windows::packed ? rooms.lower_bound(needed) : rooms.end();
    std::int64_t left = length_;
    if (room == rooms.end()) {
      item.window = count++;
    } else {
      left = *room;
      std::vector<std::int64_t>& candidates = with_room[static_cast<std::size_t>(left)];
      item.window = candidates.back();
      candidates.pop_back();
      if (candidates.empty()) rooms.erase(room);
    }
    left -= needed;
    if (left == 0) continue;
    with_room[static_cast<std::size_t>(left)].push_back(item.window);
    rooms.insert(left);
  }
  first_piece_.assign(static_cast<std::size_t>(count) + 1, 0);
  for (const Ranked& item : ranked) ++first_piece_[static_cast<std::size_t>(item.window) + 1];
  for (std::size_t w = 1; w < first_piece_.size(); ++w) first_piece_[w] += first_piece_[w - 1];
  pieces_.resize(ranked.size());
  std::vector<std::int64_t> next(first_piece_.begin(), first_piece_.end() - 1);
  for (const Ranked& item : ranked)
    pieces_[static_cast<std::size_t>(next[static_cast<std::size_t>(item.window)]++)] = item.piece;
}

void Packing::fill(std::int64_t window, std::int64_t row, TokenBatch& batch) const {
  require(window >= 0 && window < windows(), "window {} of {}", window, windows());
  require(batch.length == length_ && row < batch.sequences, "row {} of {} of {} tokens", row,
          batch.sequences, batch.length);
  std::int32_t* const inputs = batch.inputs.data() + row * length_;
  std::int32_t* const targets = batch.targets.data() + row * length_;
  std::int32_t* const starts = batch.document_starts.data() + row * length_;
  std::int64_t at = 0;
  for (std::int64_t p = first_piece_[static_cast<std::size_t>(window)];
       p < first_piece_[static_cast<std::size_t>(window) + 1]; ++p) {
    const Piece& piece = pieces_[static_cast<std::size_t>(p)];
    data_.tokens().copy_inputs(piece.begin, piece.positions, inputs + at);
    data_.tokens().copy_targets(piece.begin + 1, piece.positions, targets + at);
    std::fill_n(starts + at, piece.positions, static_cast<std::int32_t>(at));
    at += piece.positions;
  }
  // A token that the row has anyway: no embedding row counts as seen for it.
  std::fill(inputs + at, inputs + length_, inputs[0]);
  std::fill(targets + at, targets + length_, kNoTarget);
  for (; at < length_; ++at) starts[at] = static_cast<std::int32_t>(at);
}

}  // namespace ballot
