#define XXH_INLINE_ALL
#include "collectives/device_mean.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "collectives/cuda_mean.h"
#include "collectives/mean_slices.h"
#include "collectives/message.h"
#include "collectives/peer_reports.h"
#include "collectives/piece_queue.h"
#include "collectives/piece_vote.h"  // Places
#include "core/bfloat16.h"
#include "core/copy.h"
#include "core/cuda/cuda_core.h"
#include "core/error.h"
#include "core/event.h"
#include "core/hash.h"

namespace ballot {
namespace {

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

}  // namespace

struct DeviceMean::State {
  struct Piece {
    PieceRange range;
    Slice all;                             // of it
    std::vector<Slice> slices;             // by owner
    std::size_t flags = 0, own_flags = 0;  // in flags, [ranks][segments]; of this rank
    std::size_t elements_in = 0;           // in received: of the own slice, by rank
    std::size_t sources = 0, ends = 0;     // in tables
    std::vector<DeviceMessage> to, from, back, home;
    Event uploaded, added, arrived;
    std::size_t segments() const { return all.segments(); }
  };

  Transport& transport;
  DeviceLink& link;
  const DType wire;
  const Device device;
  const int rank, size;
  const std::function<bool()> may_start;
  const MeanSegments cut;
  PieceQueue queue;
  const std::uint64_t digest;
  std::int64_t step = 0;
  Buffer values, wire_values, received, flags, tables;
  PinnedBuffer flags_up, flags_down;
  std::vector<std::uint8_t> contributes;
  std::vector<std::int32_t> contributors;
  std::vector<Piece> all;
  PeerReports reports;
  bool whole = true, moved = false, reported = false;
  double work_seconds = 0;
  Stream up, wire_stream, down;  // end before what they work on

  State(const std::vector<std::int64_t>& segments, DType the_wire, Transport& the_transport,
        DeviceLink& the_link, std::function<bool()> start, std::int64_t piece_elements)
      : transport(the_transport),
        link(the_link),
        wire(the_wire),
        device(link.device()),
        rank(transport.rank()),
        size(transport.size()),
        may_start(std::move(start)),
        cut(segments),
        queue({cut.starts, cut.count,
               piece_elements > 0 ? piece_elements : choose_mean_piece(cut.count, size),
               kSliceAlignment}),
        digest(cut.digest(wire, size, queue.count())),
        contributes(segments.size(), 1),
        contributors(segments.size(), 0),
        reports(transport, Purpose::mean, kHeaderBytes + sizeof(std::uint64_t)),
        up(device),
        wire_stream(device),
        down(device) {
    values = Buffer(at(cut.count) * sizeof(float), device);
    if (wire == DType::bf16) wire_values = Buffer(at(cut.count) * size_bytes(wire), device);
    all.resize(queue.count());
    Places in, of_flags, of_tables;
    for (std::size_t p = 0; p < all.size(); ++p) place(p, in, of_flags, of_tables);
    received = Buffer(in.size_bytes(), device);
    flags = Buffer(of_flags.size_bytes(), device);
    flags_up = PinnedBuffer(of_flags.size_bytes(), device);
    flags_down = PinnedBuffer(of_flags.size_bytes(), device);
    tables = Buffer(of_tables.size_bytes(), device);
    for (Piece& piece : all) open(piece);
  }

  std::size_t element() const { return size_bytes(wire); }
  std::byte* elements(std::int64_t first) const {
    return (wire == DType::f32 ? values : wire_values).data() + at(first) * element();
  }
  static std::size_t flag_bytes(const Piece& piece) {
    return piece.segments() * sizeof(std::uint32_t);
  }

  void place(std::size_t p, Places& in, Places& of_flags, Places& of_tables) {
    Piece& piece = all[p];
    piece.range = queue.pieces().ranges()[p];
    piece.all = cut.between(piece.range.begin, piece.range.end);
    for (int r = 0; r < size; ++r) piece.slices.push_back(cut.slice(piece.range, r, size));
    piece.flags = of_flags.add(flag_bytes(piece) * at(size));
    piece.own_flags = piece.flags + flag_bytes(piece) * at(rank);
    // Rows of packs, so that every rank's elements are aligned alike.
    piece.elements_in = in.add(at(size) * padded(piece.slices[at(rank)]));
    piece.sources = of_tables.add(at(size) * sizeof(void*));
    piece.ends = of_tables.add(piece.segments() * sizeof(std::int64_t));
  }
  std::size_t padded(const Slice& slice) const {
    return (at(slice.count()) * element() + 63) / 64 * 64;
  }

  void open(Piece& piece) {
    const Slice& mine = piece.slices[at(rank)];
    std::byte* const in = received.data() + piece.elements_in;
    std::vector<const void*> sources(at(size));
    for (int r = 0; r < size; ++r) {
      const Slice& theirs = piece.slices[at(r)];
      sources[at(r)] = r == rank ? elements(mine.begin) : in + at(r) * padded(mine);
      if (r == rank) continue;
      std::byte* const flags_of = flags.data() + piece.flags + at(r) * flag_bytes(piece);
      piece.to.push_back({r, flags.data() + piece.own_flags, flag_bytes(piece)});
      piece.from.push_back({r, flags_of, flag_bytes(piece)});
      piece.to.push_back({r, elements(theirs.begin), at(theirs.count()) * element()});
      piece.from.push_back({r, in + at(r) * padded(mine), at(mine.count()) * element()});
      piece.back.push_back({r, elements(mine.begin), at(mine.count()) * element()});
      piece.home.push_back({r, elements(theirs.begin), at(theirs.count()) * element()});
    }
    std::vector<std::int64_t> ends;
    for (std::size_t s = piece.all.first; s < piece.all.last; ++s)
      ends.push_back(std::clamp<std::int64_t>(cut.end_of(s) - mine.begin, 0, mine.count()));
    copy_bytes(tables.data() + piece.sources, device, sources.data(), Device{},
               sources.size() * sizeof(void*), up);
    copy_bytes(tables.data() + piece.ends, device, ends.data(), Device{},
               ends.size() * sizeof(std::int64_t), up);
    up.synchronize();
    piece.uploaded = Event(device);
    piece.added = Event(device);
    piece.arrived = Event(device);
  }

  void start(std::size_t p) {
    if (p == 0) reports.expect();
    Stopwatch watch;
    Piece& piece = all[p];
    auto* const own = reinterpret_cast<std::uint32_t*>(flags_up.data() + piece.own_flags);
    std::copy_n(contributes.begin() + static_cast<std::ptrdiff_t>(piece.all.first),
                piece.segments(), own);
    work_seconds += watch.lap();  // what follows works on the device, or waits for NCCL
    copy_bytes(flags.data() + piece.own_flags, device, own, Device{}, flag_bytes(piece), up);
    const std::int64_t length = piece.range.end - piece.range.begin;
    if (wire == DType::bf16)
      cuda_core().round_to_bf16(
          make_tensor(values.data() + at(piece.range.begin) * sizeof(float), DType::f32,
                      {1, length}, device),
          make_tensor(elements(piece.range.begin), DType::bf16, {1, length}, device), up);
    piece.uploaded.record(up);
    piece.uploaded.hold(wire_stream);
    link.exchange(Purpose::mean, piece.to, piece.from, wire_stream);
    const Slice& mine = piece.slices[at(rank)];
    const auto table = [&](std::size_t offset) { return tables.data() + offset; };
    cuda_mean().sum_slice(
        {.type = wire,
         .ranks = size,
         .segments = static_cast<std::int32_t>(piece.segments()),
         .elements = mine.count(),
         .sources = reinterpret_cast<const void* const*>(table(piece.sources)),
         .counts = reinterpret_cast<const std::uint32_t*>(flags.data() + piece.flags),
         .ends = reinterpret_cast<const std::int64_t*>(table(piece.ends)),
         .mean = elements(mine.begin)},
        wire_stream);
    link.exchange(Purpose::mean, piece.back, piece.home, wire_stream);
    piece.added.record(wire_stream);
    piece.added.hold(down);
    if (wire == DType::bf16)
      cuda_mean().widen(reinterpret_cast<const bfloat16*>(elements(piece.range.begin)), length,
                        values.as<float>() + piece.range.begin, down);
    copy_bytes(flags_down.data() + piece.flags, Device{}, flags.data() + piece.flags, device,
               flag_bytes(piece) * at(size), down);
    piece.arrived.record(down);
  }

  Progress go_on(std::size_t p) {
    Piece& piece = all[p];
    if (!piece.arrived.done()) {
      link.check();
      reports.check();
      return Progress::none;
    }
    Stopwatch watch;
    const auto* flag = reinterpret_cast<const std::uint32_t*>(flags_down.data() + piece.flags);
    std::fill(contributors.begin() + static_cast<std::ptrdiff_t>(piece.all.first),
              contributors.begin() + static_cast<std::ptrdiff_t>(piece.all.last), 0);
    for (int r = 0; r < size; ++r)
      for (std::size_t s = piece.all.first; s < piece.all.last; ++s)
        contributors[s] += *flag++ != 0;
    work_seconds += watch.lap();
    return Progress::done;
  }

  bool end() {
    const MessageHeader expected{.kind = MessageKind::agreement, .step = step, .digest = digest};
    const auto header = [&](int sender) {
      MessageHeader of = expected;
      of.sender = static_cast<std::uint32_t>(sender);
      return of;
    };
    const std::uint64_t known =
        XXH3_64bits(contributors.data(), contributors.size() * sizeof(std::int32_t));
    if (!reported) {
      const Bytes mine = reports.message(rank);
      std::memcpy(mine.data() + kHeaderBytes, &known, sizeof known);
      seal_message(header(rank), mine);
      reports.send();
      reported = true;
    }
    if (!reports.done()) return false;
    for (int r = 0; r < size; ++r) {
      if (r == rank) continue;
      const Bytes message = reports.message(r);
      check_message(header(r), message);
      std::uint64_t theirs;
      std::memcpy(&theirs, message.data() + kHeaderBytes, sizeof theirs);
      if (theirs != known)
        throw TransportError(
            "rank {} and rank {} know different contributors to the mean of step {}: damaged on "
            "the way",
            rank, r, step);
    }
    reported = false;
    return true;
  }

  bool advance() {
    moved = false;
    if (whole) return true;
    or_abort(link, [&] {
      if (!may_start || may_start() || queue.all_left())
        moved = queue.advance([this](std::size_t p) { start(p); },
                              [this](std::size_t p) { return go_on(p); });
      whole = queue.all_done() && end();
    });
    return whole;
  }

  void give_up() {
    or_abort(link, [&] {
      link.check();
      if (reported)
        if (Transfer* missing = reports.missing()) missing->wait(Deadline::in(Duration::zero()));
      if (!queue.under_way().empty())
        throw piece_not_back(transport, queue.under_way().front(), queue.count(), "mean", step);
      throw Timeout("rank {}: the mean of step {} was not begun: tensor {} was not released", rank,
                    step, queue.pieces().unreleased());
    });
  }
};

DeviceMean::DeviceMean(std::vector<std::int64_t> segments, DType wire, Transport& transport,
                       DeviceLink& link, std::function<bool()> may_start,
                       std::int64_t piece_elements)
    : state_(std::make_unique<State>(segments, wire, transport, link, std::move(may_start),
                                     piece_elements)) {}

DeviceMean::~DeviceMean() {
  if (!state_->whole) state_->link.abort();  // or its streams would never end
}

float* DeviceMean::values() const {
  return state_->values.as<float>();
}
std::int64_t DeviceMean::count() const {
  return state_->cut.count;
}
std::span<std::uint8_t> DeviceMean::contributes() {
  return state_->contributes;
}
std::span<const std::int32_t> DeviceMean::contributors() const {
  return state_->contributors;
}
bool DeviceMean::all_started() const {
  return state_->queue.all_left();
}
std::size_t DeviceMean::segments() const {
  return state_->cut.starts.size();
}

void DeviceMean::begin(std::int64_t step) {
  State& state = *state_;
  require(state.whole, "the mean of step {} begins while that of step {} is under way", step,
          state.step);
  state.step = step;
  state.whole = false;
  state.work_seconds = 0;
  std::ranges::fill(state.contributes, std::uint8_t{1});
  state.queue.begin();
}

void DeviceMean::release(std::size_t segment) {
  state_->queue.release(segment);
}
bool DeviceMean::advance() {
  return state_->advance();
}
bool DeviceMean::moved() const {
  return state_->moved;
}
bool DeviceMean::under_way() const {
  return !state_->queue.under_way().empty() || (!state_->whole && state_->queue.all_left());
}
double DeviceMean::work_seconds() const {
  return state_->work_seconds;
}
void DeviceMean::limit_in_flight(std::size_t pieces) {
  state_->queue.limit_in_flight(pieces);
}
void DeviceMean::give_up() {
  state_->give_up();
  throw Timeout("the mean of step {} is late", state_->step);
}
Transport& DeviceMean::transport() {
  return state_->transport;
}

}  // namespace ballot
