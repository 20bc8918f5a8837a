#include "collectives/ring_all_reduce.h"

#include <algorithm>
#include <vector>

#include "core/buffer.h"
#include "core/parallel.h"

namespace ballot {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
constexpr std::int64_t kMostPieces = 64;
constexpr std::int64_t kGrain = 65536;
constexpr auto kPause = std::chrono::microseconds(200);

BALLOT_VECTORIZED void add_to(const float* __restrict x, float* __restrict sum,
                              std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] = x[i] + sum[i];
}
BALLOT_VECTORIZED void add_to(const bfloat16* __restrict x, bfloat16* __restrict sum,
                              std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) sum[i] = to_bfloat16(to_float(x[i]) + to_float(sum[i]));
}

}  // namespace

struct RingAllReduce::State {
  virtual ~State() = default;
  virtual void reduce(Deadline deadline) = 0;
};

template <class T>
struct RingAllReduce::StateOf final : RingAllReduce::State {
  Transport& transport;
  std::span<T> values;
  const int rank, size;
  std::int64_t pieces = 1;
  Buffer scratch;  // what came in for a slice that is not finished, piece by piece
  // One for each (hop, piece); hops 0 .. W-2 add up, W-1 .. 2W-3 copy.
  std::vector<std::unique_ptr<Transfer>> transfers;
  std::vector<int> hop;  // by piece: under way; 2(W-1): through

  StateOf(std::span<T> the_values, Transport& the_transport, std::size_t piece_bytes)
      : transport(the_transport),
        values(the_values),
        rank(transport.rank()),
        size(transport.size()) {
    if (size == 1) return;
    const std::int64_t count = static_cast<std::int64_t>(values.size());
    const std::int64_t slice = (count + size - 1) / size;
    std::int64_t piece =
        static_cast<std::int64_t>((piece_bytes > 0 ? piece_bytes : kPieceBytes) / sizeof(T));
    if (piece_bytes == 0) piece = std::max(piece, (slice + kMostPieces - 1) / kMostPieces);
    piece = std::max<std::int64_t>(piece, 1);
    pieces = std::max<std::int64_t>(1, (slice + piece - 1) / piece);
    scratch = Buffer(static_cast<std::size_t>(slice + pieces) * sizeof(T));
    hop.resize(static_cast<std::size_t>(pieces));
    for (int h = 0; h < 2 * (size - 1); ++h)
      for (std::int64_t p = 0; p < pieces; ++p) transfers.push_back(open(h, p));
  }

  int slice_at(int steps_back) const { return ((rank - steps_back) % size + size) % size; }
  // Slices and pieces as even as whole elements allow; some may be empty.
  std::span<T> piece_of(int slice, std::int64_t p) const {
    const std::int64_t count = static_cast<std::int64_t>(values.size());
    const std::int64_t begin = count * slice / size, end = count * (slice + 1) / size;
    const std::int64_t from = begin + (end - begin) * p / pieces;
    const std::int64_t to = begin + (end - begin) * (p + 1) / pieces;
    return values.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from));
  }
  // Slices differ by one element at most, so a piece of any lies within this place.
  std::span<T> scratch_of(int slice, std::int64_t p) const {
    const std::int64_t longest = (static_cast<std::int64_t>(values.size()) + size - 1) / size;
    const std::int64_t from = longest * p / pieces + p;
    return {scratch.as<T>() + from, piece_of(slice, p).size()};
  }
  bool adds(int h) const { return h < size - 1; }

  std::unique_ptr<Transfer> open(int h, std::int64_t p) {
    std::vector<SendParts> to(static_cast<std::size_t>(size));
    std::vector<ReceiveParts> from(static_cast<std::size_t>(size));
    // In hop h a rank sends the slice that it got in the hop before.
    const int sent = slice_at(h), received = slice_at(h + 1);
    to[static_cast<std::size_t>((rank + 1) % size)] = {std::as_bytes(piece_of(sent, p))};
    from[static_cast<std::size_t>((rank + size - 1) % size)] = {
        std::as_writable_bytes(adds(h) ? scratch_of(received, p) : piece_of(received, p))};
    return transport.open_exchange(Purpose::mean, to, from);
  }
  Transfer& transfer(int h, std::int64_t p) {
    return *transfers[static_cast<std::size_t>(h * pieces + p)];
  }

  // Goes on with one piece as far as it can without waiting; true when something moved.
  bool advance(std::int64_t p) {
    int& h = hop[static_cast<std::size_t>(p)];
    bool moved = false;
    while (h < 2 * (size - 1) && transfer(h, p).done()) {
      const std::span<T> sum = piece_of(slice_at(h + 1), p);
      if (adds(h)) {
        const T* came = scratch_of(slice_at(h + 1), p).data();
        parallel_for(static_cast<std::int64_t>(sum.size()), kGrain,
                     [&](std::int64_t begin, std::int64_t end) {
                       add_to(came + begin, sum.data() + begin, end - begin);
                     });
      }
      if (++h < 2 * (size - 1)) transfer(h, p).start();
      moved = true;
    }
    return moved;
  }

  void reduce(Deadline deadline) override {
    if (size == 1) return;
    for (std::int64_t p = 0; p < pieces; ++p) {
      hop[static_cast<std::size_t>(p)] = 0;
      transfer(0, p).start();
    }
    for (;;) {
      bool moved = false;
      std::int64_t waiting = -1;
      for (std::int64_t p = 0; p < pieces; ++p) {
        if (hop[static_cast<std::size_t>(p)] == 2 * (size - 1)) continue;
        moved |= advance(p);
        if (hop[static_cast<std::size_t>(p)] < 2 * (size - 1) && waiting < 0) waiting = p;
      }
      if (waiting < 0) return;
      if (moved) continue;
      if (deadline.passed())  // throws and names the ranks, unless it came this very moment
        transfer(hop[static_cast<std::size_t>(waiting)], waiting).wait(deadline);
      transport.idle(kPause);
    }
  }
};

RingAllReduce::RingAllReduce(std::span<float> values, Transport& transport, std::size_t piece_bytes)
    : state_(std::make_unique<StateOf<float>>(values, transport, piece_bytes)) {}
RingAllReduce::RingAllReduce(std::span<bfloat16> values, Transport& transport,
                             std::size_t piece_bytes)
    : state_(std::make_unique<StateOf<bfloat16>>(values, transport, piece_bytes)) {}
RingAllReduce::~RingAllReduce() = default;

void RingAllReduce::reduce(Deadline deadline) {
  state_->reduce(deadline);
}

}  // namespace ballot
