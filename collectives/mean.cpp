#include "collectives/mean.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "collectives/mean_slices.h"
#include "collectives/message.h"
#include "collectives/piece_queue.h"
#include "collectives/piece_vote.h"  // Places
#include "core/bfloat16.h"
#include "core/buffer.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace ballot {
namespace {

constexpr std::int64_t kGrain = 16384;
constexpr std::int64_t kStretch = 2048;  // elements that are summed at once

BALLOT_VECTORIZED void add_f32(const float* __restrict x, float* __restrict sum,
                               std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += x[i];
}
BALLOT_VECTORIZED void add_bf16(const bfloat16* __restrict x, float* __restrict sum,
                                std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] += to_float(x[i]);
}
BALLOT_VECTORIZED void divide(float* __restrict sum, float by, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] /= by;
}
BALLOT_VECTORIZED void round(const float* __restrict x, bfloat16* __restrict y,
                             std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = to_bfloat16(x[i]);
}
BALLOT_VECTORIZED void widen(const bfloat16* __restrict x, float* __restrict y,
                             std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = to_float(x[i]);
}

std::size_t round_up_8(std::size_t bytes) {
  return (bytes + 7) / 8 * 8;
}
std::size_t at(int r) {
  return static_cast<std::size_t>(r);
}

}  // namespace

// Two kinds of messages, in two parts:
//   contribution: header | one byte a segment of the slice, padded to 8   +  elements of the wire
//   mean:         header | contributors of each segment (int32), padded   +  elements of the wire
// With the fp32 wire the elements are values() themselves, with bf16 they lie in buffers of their
// own.
struct Mean::State {
  enum class Stage { contributions, means };
  struct Piece {
    Stage stage = Stage::contributions;
    std::vector<Slice> slices;                      // by owner
    std::vector<std::size_t> flags_to, flags_from;  // heads in memory, by rank
    std::vector<std::size_t> elements_from;         // in memory, by rank; the own ones elsewhere
    std::vector<std::size_t> counts_from;           // heads of means, by owner
    std::unique_ptr<Transfer> exchange, gather;
  };

  Transport& transport;
  DType wire;
  int rank, size;
  MeanSegments cut;
  PieceQueue queue;
  const std::uint64_t digest;
  std::int64_t step = 0;
  PinnedBuffer values;
  Buffer wire_values, memory;
  std::vector<std::uint8_t> contributes;
  std::vector<std::int32_t> contributors;
  std::vector<Piece> all;
  bool whole = true, moved = false;
  double work_seconds = 0;
  Cost cost;

  State(std::vector<std::int64_t> segments, DType the_wire, Transport& the_transport,
        std::int64_t piece_elements, Device reader)
      : transport(the_transport),
        wire(the_wire),
        rank(transport.rank()),
        size(transport.size()),
        cut(segments),
        queue({cut.starts, cut.count,
               piece_elements > 0 ? piece_elements : choose_mean_piece(cut.count, size),
               kSliceAlignment}),
        digest(cut.digest(wire, size, queue.count())) {
    contributes.assign(segments.size(), 1);
    contributors.assign(segments.size(), 0);
    values = PinnedBuffer(static_cast<std::size_t>(cut.count) * sizeof(float), reader);
    if (wire == DType::bf16) wire_values = Buffer(static_cast<std::size_t>(cut.count) * 2);
    all.resize(queue.count());
    Places places;
    for (std::size_t p = 0; p < all.size(); ++p) place(p, places);
    memory = Buffer(places.size_bytes());
    for (Piece& piece : all) open(piece);
  }

  std::size_t wire_bytes(const Slice& s) const {
    return static_cast<std::size_t>(s.count()) * size_bytes(wire);
  }
  static std::size_t flags_bytes(const Slice& s) { return kHeaderBytes + round_up_8(s.segments()); }
  static std::size_t counts_bytes(const Slice& s) {
    return kHeaderBytes + round_up_8(s.segments() * sizeof(std::int32_t));
  }
  std::uint8_t* flags_at(std::size_t head) const {
    return reinterpret_cast<std::uint8_t*>(memory.data() + head + kHeaderBytes);
  }
  std::int32_t* counts_at(std::size_t head) const {
    return reinterpret_cast<std::int32_t*>(memory.data() + head + kHeaderBytes);
  }
  Bytes flags_head(const Piece& piece, int r) const {
    return memory.bytes().subspan(piece.flags_from[at(r)], flags_bytes(piece.slices[at(rank)]));
  }
  Bytes counts_head(const Piece& piece, int owner) const {
    return memory.bytes().subspan(piece.counts_from[at(owner)],
                                  counts_bytes(piece.slices[at(owner)]));
  }
  // A slice's elements as they are on the wire, of this worker.
  Bytes own_elements(const Slice& s) const {
    const Bytes elements = wire == DType::f32 ? values.bytes() : wire_values.bytes();
    return elements.subspan(static_cast<std::size_t>(s.begin) * size_bytes(wire), wire_bytes(s));
  }
  Bytes elements_from(const Piece& piece, int r) const {
    const Slice& mine = piece.slices[at(rank)];
    return r == rank ? own_elements(mine)
                     : memory.bytes().subspan(piece.elements_from[at(r)], wire_bytes(mine));
  }

  void place(std::size_t p, Places& places) {
    Piece& piece = all[p];
    for (int r = 0; r < size; ++r)
      piece.slices.push_back(cut.slice(queue.pieces().ranges()[p], r, size));
    const Slice& mine = piece.slices[at(rank)];
    for (int r = 0; r < size; ++r) {
      piece.flags_to.push_back(places.add(flags_bytes(piece.slices[at(r)])));
      piece.flags_from.push_back(r == rank ? piece.flags_to.back() : places.add(flags_bytes(mine)));
      piece.elements_from.push_back(r == rank ? 0 : places.add(wire_bytes(mine)));
      piece.counts_from.push_back(places.add(counts_bytes(piece.slices[at(r)])));
    }
  }

  void open(Piece& piece) {
    std::vector<SendParts> contributions(at(size)), means(at(size));
    std::vector<ReceiveParts> contributions_in(at(size)), means_in(at(size));
    const Slice& mine = piece.slices[at(rank)];
    for (int r = 0; r < size; ++r) {
      if (r == rank) continue;
      const Slice& theirs = piece.slices[at(r)];
      contributions[at(r)] = {memory.bytes().subspan(piece.flags_to[at(r)], flags_bytes(theirs)),
                              own_elements(theirs)};
      contributions_in[at(r)] = {flags_head(piece, r), elements_from(piece, r)};
      means[at(r)] = {counts_head(piece, rank), own_elements(mine)};
      means_in[at(r)] = {counts_head(piece, r), own_elements(theirs)};
      cost.elements += static_cast<std::int64_t>(wire_bytes(theirs) + wire_bytes(mine));
      cost.framing += static_cast<std::int64_t>(flags_bytes(theirs) + counts_bytes(mine));
    }
    piece.exchange = transport.open_exchange(Purpose::mean, contributions, contributions_in);
    piece.gather = transport.open_exchange(Purpose::mean, means, means_in);
  }

  MessageHeader header(MessageKind kind, int sender, std::size_t p, int owner) const {
    MessageHeader header;
    header.kind = kind;
    header.step = step;
    header.digest = digest;
    header.sender = static_cast<std::uint32_t>(sender);
    header.chunk = static_cast<std::uint32_t>(p) * 2048 + static_cast<std::uint32_t>(owner);
    return header;
  }

  void start(std::size_t p) {
    Stopwatch watch;
    Piece& piece = all[p];
    const PieceRange range = queue.pieces().ranges()[p];
    if (wire == DType::bf16)
      parallel_for(range.end - range.begin, kGrain, [&](std::int64_t begin, std::int64_t end) {
        round(values.as<float>() + range.begin + begin,
              wire_values.as<bfloat16>() + range.begin + begin, end - begin);
      });
    for (int r = 0; r < size; ++r) {
      const Slice& s = piece.slices[at(r)];
      std::copy_n(contributes.begin() + static_cast<std::ptrdiff_t>(s.first), s.segments(),
                  flags_at(piece.flags_to[at(r)]));
      if (r == rank) continue;
      const ConstBytes rest[] = {own_elements(s)};
      seal_message(header(MessageKind::contribution, rank, p, r),
                   memory.bytes().subspan(piece.flags_to[at(r)], flags_bytes(s)), rest);
    }
    work_seconds += watch.lap();
    piece.exchange->start();
    piece.stage = Stage::contributions;
  }

  // Elements [begin, end) of the own slice, all in one segment: the sum in the order of ranks over
  // those that count.
  void sum_range(const Piece& piece, std::size_t flag, std::int64_t begin, std::int64_t end) {
    alignas(64) std::array<float, kStretch> sum;
    const Slice& mine = piece.slices[at(rank)];
    for (; begin < end; begin += kStretch) {
      const std::int64_t length = std::min(end - begin, kStretch);
      int summed = 0;
      for (int r = 0; r < size; ++r) {
        if (flags_at(piece.flags_from[at(r)])[flag] == 0) continue;
        const std::byte* elements = elements_from(piece, r).data();
        const float* f32 = reinterpret_cast<const float*>(elements) + begin;
        const bfloat16* bf16 = reinterpret_cast<const bfloat16*>(elements) + begin;
        if (wire == DType::f32 && summed == 0)
          std::copy_n(f32, length, sum.data());
        else if (wire == DType::f32)
          add_f32(f32, sum.data(), length);
        else if (summed == 0)
          widen(bf16, sum.data(), length);
        else
          add_bf16(bf16, sum.data(), length);
        ++summed;
      }
      if (summed == 0)
        std::fill_n(sum.data(), length, 0.0f);
      else if (summed > 1)
        divide(sum.data(), static_cast<float>(summed), length);
      if (wire == DType::f32)
        std::copy_n(sum.data(), length, values.as<float>() + mine.begin + begin);
      else
        round(sum.data(), wire_values.as<bfloat16>() + mine.begin + begin, length);
    }
  }

  void sum_own(std::size_t p) {
    Piece& piece = all[p];
    const Slice& s = piece.slices[at(rank)];
    for (int r = 0; r < size; ++r) {
      if (r == rank) continue;
      const ConstBytes rest[] = {elements_from(piece, r)};
      check_message(header(MessageKind::contribution, r, p, rank), flags_head(piece, r), rest);
    }
    for (std::size_t flag = 0; flag < s.segments(); ++flag) {
      const std::size_t segment = s.first + flag;
      const std::int64_t begin = std::max(cut.starts[segment], s.begin) - s.begin;
      const std::int64_t end = std::min(cut.end_of(segment), s.end) - s.begin;
      parallel_for(end - begin, kGrain, [&](std::int64_t from, std::int64_t to) {
        sum_range(piece, flag, begin + from, begin + to);
      });
      std::int32_t counted = 0;
      for (int r = 0; r < size; ++r) counted += flags_at(piece.flags_from[at(r)])[flag] != 0;
      counts_at(piece.counts_from[at(rank)])[flag] = counted;
    }
    if (size > 1) {
      const ConstBytes rest[] = {own_elements(s)};
      seal_message(header(MessageKind::mean, rank, p, rank), counts_head(piece, rank), rest);
    }
  }

  void collect(std::size_t p) {
    const Piece& piece = all[p];
    for (int r = 0; r < size; ++r) {
      const Slice& s = piece.slices[at(r)];
      if (r != rank) {
        const ConstBytes rest[] = {own_elements(s)};
        check_message(header(MessageKind::mean, r, p, r), counts_head(piece, r), rest);
      }
      std::copy_n(counts_at(piece.counts_from[at(r)]), s.segments(),
                  contributors.begin() + static_cast<std::ptrdiff_t>(s.first));
    }
    if (wire == DType::f32) return;
    // The owner too takes what it sent, rounded.
    const PieceRange range = queue.pieces().ranges()[p];
    parallel_for(range.end - range.begin, kGrain, [&](std::int64_t begin, std::int64_t end) {
      widen(wire_values.as<bfloat16>() + range.begin + begin,
            values.as<float>() + range.begin + begin, end - begin);
    });
  }

  Progress go_on(std::size_t p) {
    Piece& piece = all[p];
    if (!waits_for(p).done()) return Progress::none;
    Stopwatch watch;
    if (piece.stage == Stage::means) {
      collect(p);
      work_seconds += watch.lap();
      return Progress::done;
    }
    sum_own(p);
    work_seconds += watch.lap();
    piece.gather->start();
    piece.stage = Stage::means;
    return Progress::moved;
  }

  Transfer& waits_for(std::size_t p) const {
    return all[p].stage == Stage::contributions ? *all[p].exchange : *all[p].gather;
  }

  bool advance() {
    moved = false;
    if (whole) return true;
    moved = queue.advance([this](std::size_t p) { start(p); },
                          [this](std::size_t p) { return go_on(p); });
    whole = queue.all_done();
    return whole;
  }
};

Mean::Mean(std::vector<std::int64_t> segments, DType wire, Transport& transport,
           std::int64_t piece_elements, Device reader)
    : state_(
          std::make_unique<State>(std::move(segments), wire, transport, piece_elements, reader)) {}

Mean::~Mean() = default;

std::span<float> Mean::values() {
  return state_->values.span<float>();
}

std::span<std::uint8_t> Mean::contributes() {
  return state_->contributes;
}

std::span<const std::int32_t> Mean::contributors() const {
  return state_->contributors;
}

std::size_t Mean::segments() const {
  return state_->cut.starts.size();
}

void Mean::begin(std::int64_t step) {
  State& s = *state_;
  require(s.whole, "the mean of step {} begins while that of step {} is under way", step, s.step);
  s.step = step;
  s.queue.begin();
  std::ranges::fill(s.contributes, std::uint8_t{1});
  s.whole = false;
  s.work_seconds = 0;
}

void Mean::release(std::size_t segment) {
  state_->queue.release(segment);
}

bool Mean::advance() {
  return state_->advance();
}

bool Mean::moved() const {
  return state_->moved;
}

void Mean::limit_in_flight(std::size_t pieces) {
  state_->queue.limit_in_flight(pieces);
}

bool Mean::under_way() const {
  return !state_->queue.under_way().empty();
}

double Mean::work_seconds() const {
  return state_->work_seconds;
}

void Mean::give_up() {
  State& s = *state_;
  for (const std::size_t p : s.queue.under_way())
    s.waits_for(p).wait(Deadline::in(Duration::zero()));
  const std::size_t segment = s.queue.pieces().unreleased();
  if (segment < s.queue.pieces().segments())
    throw LogicError("a mean waits for segment " + std::to_string(segment) +
                     ", which was never released");
  throw Timeout("rank {}: the mean of step {} passed its deadline when all had come", s.rank,
                s.step);
}

Transport& Mean::transport() {
  return state_->transport;
}

void Mean::reduce(Deadline deadline) {
  release_all();
  finish(deadline);
}

Mean::Cost Mean::cost() const {
  return state_->cost;
}

std::int64_t Mean::pieces() const {
  return static_cast<std::int64_t>(state_->queue.count());
}

}  // namespace ballot
