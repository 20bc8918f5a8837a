#include "collectives/mean.h"

#include <algorithm>
#include <cstring>

#include "collectives/message.h"
#include "core/bfloat16.h"
#include "core/buffer.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace ballot {
namespace {

constexpr std::int64_t kSliceAlignment = 16;  // elements: a cache line of fp32
constexpr std::int64_t kGrain = 16384;

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

// What one owner sums: elements [begin, end), which lie in segments [first_segment, last_segment).
struct Slice {
  std::int64_t begin = 0, end = 0;
  std::size_t first_segment = 0, last_segment = 0;
  std::size_t segment_count() const { return last_segment - first_segment; }
  std::int64_t count() const { return end - begin; }
};

}  // namespace

// Two kinds of messages, after the header:
//   contribution: one byte a segment of the slice, padded to 8 | the slice's elements as they are
//   on the wire mean:         contributors of each segment (int32), padded to 8 | elements
struct Mean::State {
  Transport& transport;
  DType wire;
  int rank, size;
  std::uint64_t digest = 0;
  std::int64_t calls = 0;            // the messages' step
  std::vector<std::int64_t> starts;  // of the segments; one more: the end of the last
  std::vector<Slice> slices;         // by owner
  Buffer values, contributions_out, contributions_in, means;
  std::vector<std::uint8_t> contributes;
  std::vector<std::int32_t> contributors;
  std::vector<Bytes> contribution_to, contribution_from, mean_from;  // by rank; the own rank's too
  std::vector<ConstBytes> contribution_to_const;
  double exchange_seconds = 0;

  State(std::vector<std::int64_t> segments, DType the_wire, Transport& the_transport)
      : transport(the_transport), wire(the_wire), rank(transport.rank()), size(transport.size()) {
    starts.push_back(0);
    digest =
        hash64(static_cast<std::uint64_t>(wire), static_cast<std::uint64_t>(size), segments.size());
    for (const std::int64_t length : segments) {
      require(length > 0, "segment {} of a mean has {} elements", starts.size() - 1, length);
      starts.push_back(starts.back() + length);
      digest = mix64(digest ^ static_cast<std::uint64_t>(length));
    }
    contributes.assign(segments.size(), 1);
    contributors.assign(segments.size(), 0);
    values = Buffer(static_cast<std::size_t>(starts.back()) * sizeof(float));
    for (int r = 0; r < size; ++r) slices.push_back(slice(r));
    const Slice& mine = slices[at(rank)];
    std::size_t out = 0, back = 0;
    for (const Slice& s : slices) {
      out += round_up_8(contribution_bytes(s));
      back += round_up_8(mean_bytes(s));
    }
    const std::size_t in_bytes = contribution_bytes(mine);
    contributions_out = Buffer(out);
    contributions_in = Buffer(round_up_8(in_bytes) * at(size));
    means = Buffer(back);
    std::size_t out_offset = 0, back_offset = 0;
    for (int r = 0; r < size; ++r) {
      const Slice& s = slices[at(r)];
      contribution_to.push_back(
          contributions_out.bytes().subspan(out_offset, contribution_bytes(s)));
      contribution_to_const.push_back(contribution_to.back());
      out_offset += round_up_8(contribution_bytes(s));
      contribution_from.push_back(
          r == rank ? contribution_to.back()
                    : contributions_in.bytes().subspan(at(r) * round_up_8(in_bytes), in_bytes));
      mean_from.push_back(means.bytes().subspan(back_offset, mean_bytes(s)));
      back_offset += round_up_8(mean_bytes(s));
    }
  }

  static std::size_t at(int r) { return static_cast<std::size_t>(r); }

  Slice slice(int owner) const {
    const std::int64_t count = starts.back();
    const std::int64_t units = (count + kSliceAlignment - 1) / kSliceAlignment;
    Slice s;
    s.begin = std::min(count, units * owner / size * kSliceAlignment);
    s.end = std::min(count, units * (owner + 1) / size * kSliceAlignment);
    if (s.begin == s.end) return s;
    s.first_segment =
        static_cast<std::size_t>(std::ranges::upper_bound(starts, s.begin) - starts.begin()) - 1;
    s.last_segment =
        static_cast<std::size_t>(std::ranges::lower_bound(starts, s.end) - starts.begin());
    return s;
  }

  std::size_t wire_bytes(const Slice& s) const {
    return static_cast<std::size_t>(s.count()) * size_bytes(wire);
  }
  std::size_t contribution_bytes(const Slice& s) const {
    return kHeaderBytes + round_up_8(s.segment_count()) + wire_bytes(s);
  }
  std::size_t mean_bytes(const Slice& s) const {
    return kHeaderBytes + round_up_8(s.segment_count() * sizeof(std::int32_t)) + wire_bytes(s);
  }
  static std::uint8_t* flags_of(Bytes message) {
    return reinterpret_cast<std::uint8_t*>(message.data() + kHeaderBytes);
  }
  static std::int32_t* counts_of(Bytes message) {
    return reinterpret_cast<std::int32_t*>(message.data() + kHeaderBytes);
  }
  static std::byte* elements_of(Bytes contribution, const Slice& s) {
    return contribution.data() + kHeaderBytes + round_up_8(s.segment_count());
  }
  static std::byte* mean_elements_of(Bytes mean, const Slice& s) {
    return mean.data() + kHeaderBytes + round_up_8(s.segment_count() * sizeof(std::int32_t));
  }
  MessageHeader header(MessageKind kind, int sender, int owner) const {
    MessageHeader header;
    header.kind = kind;
    header.step = calls;
    header.digest = digest;
    header.sender = static_cast<std::uint32_t>(sender);
    header.chunk = static_cast<std::uint32_t>(owner);
    return header;
  }

  void to_wire(const Slice& s, std::byte* target) const {
    const float* source = values.as<float>() + s.begin;
    parallel_for(s.count(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      if (wire == DType::f32)
        std::memcpy(target + begin * 4, source + begin, static_cast<std::size_t>(end - begin) * 4);
      else
        round(source + begin, reinterpret_cast<bfloat16*>(target) + begin, end - begin);
    });
  }
  void from_wire(const Slice& s, const std::byte* source) {
    float* target = values.as<float>() + s.begin;
    parallel_for(s.count(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      if (wire == DType::f32)
        std::memcpy(target + begin, source + begin * 4, static_cast<std::size_t>(end - begin) * 4);
      else
        widen(reinterpret_cast<const bfloat16*>(source) + begin, target + begin, end - begin);
    });
  }

  void pack() {
    for (int r = 0; r < size; ++r) {
      const Slice& s = slices[at(r)];
      std::copy_n(contributes.begin() + static_cast<std::ptrdiff_t>(s.first_segment),
                  s.segment_count(), flags_of(contribution_to[at(r)]));
      to_wire(s, elements_of(contribution_to[at(r)], s));
      if (r != rank)
        seal_message(header(MessageKind::contribution, rank, r), contribution_to[at(r)]);
    }
  }

  // Elements [begin, end) of the own slice, all in one segment: the sum in the order of ranks over
  // those that count.
  void sum_range(const Slice& s, std::size_t flag, std::int64_t begin, std::int64_t end) {
    float* sum = values.as<float>() + s.begin + begin;
    int count = 0;
    for (int r = 0; r < size; ++r) {
      if (flags_of(contribution_from[at(r)])[flag] == 0) continue;
      const std::byte* elements = elements_of(contribution_from[at(r)], s);
      const float* f32 = reinterpret_cast<const float*>(elements) + begin;
      const bfloat16* bf16 = reinterpret_cast<const bfloat16*>(elements) + begin;
      if (wire == DType::f32 && count == 0)
        std::copy_n(f32, end - begin, sum);
      else if (wire == DType::f32)
        add_f32(f32, sum, end - begin);
      else if (count == 0)
        widen(bf16, sum, end - begin);
      else
        add_bf16(bf16, sum, end - begin);
      ++count;
    }
    if (count == 0)
      std::fill_n(sum, end - begin, 0.0f);
    else if (count > 1)
      divide(sum, static_cast<float>(count), end - begin);
  }

  void sum_own() {
    const Slice& s = slices[at(rank)];
    for (int r = 0; r < size; ++r)
      if (r != rank)
        check_message(header(MessageKind::contribution, r, rank), contribution_from[at(r)]);
    for (std::size_t flag = 0; flag < s.segment_count(); ++flag) {
      const std::size_t segment = s.first_segment + flag;
      const std::int64_t begin = std::max(starts[segment], s.begin) - s.begin;
      const std::int64_t end = std::min(starts[segment + 1], s.end) - s.begin;
      parallel_for(end - begin, kGrain, [&](std::int64_t from, std::int64_t to) {
        sum_range(s, flag, begin + from, begin + to);
      });
      std::int32_t count = 0;
      for (int r = 0; r < size; ++r) count += flags_of(contribution_from[at(r)])[flag] != 0;
      counts_of(mean_from[at(rank)])[flag] = count;
    }
    to_wire(s, mean_elements_of(mean_from[at(rank)], s));
    seal_message(header(MessageKind::mean, rank, rank), mean_from[at(rank)]);
  }

  void assemble() {
    for (int r = 0; r < size; ++r) {
      const Slice& s = slices[at(r)];
      if (r != rank) check_message(header(MessageKind::mean, r, r), mean_from[at(r)]);
      std::copy_n(counts_of(mean_from[at(r)]), s.segment_count(),
                  contributors.begin() + static_cast<std::ptrdiff_t>(s.first_segment));
      // The owner too takes what it sent, rounded.
      if (r != rank || wire != DType::f32) from_wire(s, mean_elements_of(mean_from[at(r)], s));
    }
  }
};

Mean::Mean(std::vector<std::int64_t> segments, DType wire, Transport& transport)
    : state_(std::make_unique<State>(std::move(segments), wire, transport)) {}

Mean::~Mean() = default;

std::span<float> Mean::values() {
  return state_->values.span<float>();
}

std::span<std::uint8_t> Mean::contributes() {
  return state_->contributes;
}

void Mean::reduce(Deadline deadline) {
  State& s = *state_;
  s.pack();
  Stopwatch watch;
  s.transport.start_exchange(Purpose::mean, s.contribution_to_const, s.contribution_from)
      ->wait(deadline);
  s.exchange_seconds = watch.lap();
  s.sum_own();
  watch.lap();
  s.transport.start_gather(Purpose::mean, s.mean_from[State::at(s.rank)], s.mean_from)
      ->wait(deadline);
  s.exchange_seconds += watch.lap();
  s.assemble();
  std::ranges::fill(s.contributes, std::uint8_t{1});
  ++s.calls;
}

std::span<const std::int32_t> Mean::contributors() const {
  return state_->contributors;
}

double Mean::exchange_seconds() const {
  return state_->exchange_seconds;
}

}  // namespace ballot
