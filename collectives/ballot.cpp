#include "collectives/ballot.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "collectives/cuda_vote.h"
#include "collectives/kernels.h"
#include "core/copy.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace ballot {
namespace {

constexpr std::uint64_t kZeroDomain = 0x7a65726f636f696eull;  // "zerocoin"
constexpr std::uint64_t kTieDomain = 0x746965636f696e73ull;   // "tiecoins"

constexpr std::int64_t kGrain = 16384;  // elements that are worth a thread

// Which of `count` <= 64 elements are +0 or -0.
std::uint64_t zero_word(const float* x, std::int64_t count) {
  std::uint64_t zeros = 0;
  for (std::int64_t i = 0; i < count; ++i) zeros |= static_cast<std::uint64_t>(x[i] == 0.0f) << i;
  return zeros;
}

// Squares of floats are exact in double, so the compiler's choice of fused products changes
// nothing.
BALLOT_VECTORIZED double sum_of_squares(const float* __restrict x, std::int64_t count) {
  constexpr int kLanes = 16;
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int k = 0; k < kLanes; ++k)
      lanes[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
  double sum = 0;
  for (int k = 0; k < kLanes; ++k) sum += lanes[k];
  for (; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

// Root mean square of the real elements, summed in an order that only the shape decides.
double root_mean_square(const float* x, const BallotSegment& segment) {
  constexpr std::int64_t kPieces = 64;
  std::array<double, kPieces> partial{};
  parallel_items(std::min(segment.rows, kPieces), [&](std::int64_t piece) {
    const std::int64_t pieces = std::min(segment.rows, kPieces);
    for (std::int64_t row = segment.rows * piece / pieces;
         row < segment.rows * (piece + 1) / pieces; ++row)
      partial[static_cast<std::size_t>(piece)] +=
          sum_of_squares(x + row * segment.row_stride, segment.cols);
  });
  double sum = 0;
  for (const double p : partial) sum += p;
  return std::sqrt(sum / (static_cast<double>(segment.rows) * static_cast<double>(segment.cols)));
}

// Writes consecutive abstention bits. Words at the ends belong to neighbours too (another segment,
// another thread), so they change only by atomic operations on the bits of this range.
class AbstentionWriter {
 public:
  AbstentionWriter(std::uint64_t* words, std::int64_t block) : words_(words), block_(block) {}
  ~AbstentionWriter() { flush(); }
  AbstentionWriter(const AbstentionWriter&) = delete;
  AbstentionWriter& operator=(const AbstentionWriter&) = delete;
  void put(bool abstains) {
    const std::uint64_t mask = std::uint64_t{1} << (block_ % 64);
    touched_ |= mask;
    if (abstains) value_ |= mask;
    if (++block_ % 64 == 0) flush();
  }

 private:
  void flush() {
    if (touched_ == 0) return;
    const std::atomic_ref<std::uint64_t> word(words_[(block_ - 1) / 64]);
    word.fetch_or(value_, std::memory_order_relaxed);
    word.fetch_and(value_ | ~touched_, std::memory_order_relaxed);
    touched_ = value_ = 0;
  }
  std::uint64_t* words_;
  std::int64_t block_;
  std::uint64_t touched_ = 0, value_ = 0;
};

// Casts runs of blocks of one segment on one thread.
class BlockCaster {
 public:
  BlockCaster(const float* x, const BallotSegment& segment, const CastOptions& options,
              std::span<const std::uint8_t> silent_rows, double threshold, Ballot& ballot)
      : x_(x),
        segment_(segment),
        options_(options),
        silent_rows_(silent_rows),
        threshold_(threshold),
        block_words_(segment.block / 64),
        bits_(ballot.bits().words() + segment.offset / 64),
        abstentions_(ballot.abstentions().words()) {}

  // Returns how many of these blocks abstain.
  std::int64_t cast(std::int64_t begin, std::int64_t end) const {
    AbstentionWriter writer(abstentions_, segment_.first_block + begin);
    const bool whole = segment_.cols == segment_.row_stride && silent_rows_.empty();
    if (whole) return cast_full(begin, end, writer);
    std::int64_t abstained = 0;
    const std::int64_t row_blocks = segment_.row_stride / segment_.block;
    for (std::int64_t block = begin; block < end;) {
      const std::int64_t row = block / row_blocks;
      const std::int64_t row_end = std::min(end, (row + 1) * row_blocks);
      // Blocks that hold only real elements, then one with padding, then padding alone.
      const std::int64_t full_end =
          std::clamp(row * row_blocks + segment_.cols / segment_.block, block, row_end);
      const bool silent = !silent_rows_.empty() && silent_rows_[static_cast<std::size_t>(row)] != 0;
      if (!silent) {
        abstained += cast_full(block, full_end, writer);
        block = full_end;
        if (block < row_end && block % row_blocks * segment_.block < segment_.cols)
          abstained += cast_partial(block++, writer);
      }
      abstained += row_end - block;
      clear(block, row_end);
      for (; block < row_end; ++block) writer.put(true);
    }
    return abstained;
  }

 private:
  static constexpr std::int64_t kFlags = 64;  // blocks at a time: while their floats are at hand

  std::int64_t cast_full(std::int64_t begin, std::int64_t end, AbstentionWriter& writer) const {
    std::int64_t abstained = 0;
    std::array<std::uint8_t, kFlags> flags;
    for (std::int64_t first = begin; first < end; first += kFlags) {
      const std::int64_t count = std::min(kFlags, end - first);
      const float* const x = x_ + first * segment_.block;
      const std::uint8_t all = kernels().pack_blocks(x, count, block_words_, threshold_,
                                                     bits_ + first * block_words_, flags.data());
      for (std::int64_t b = 0; b < count; ++b) {
        const std::uint8_t flag = all == 0 ? 0 : flags[static_cast<std::size_t>(b)];
        if (flag & kBlockIsSilent)
          clear(first + b, first + b + 1);
        else if (flag & kBlockHasZeros)
          toss_zeros(x + b * segment_.block, first + b, segment_.block);
        writer.put(flag & kBlockIsSilent);
        abstained += flag & kBlockIsSilent;
      }
    }
    return abstained;
  }

  // A block whose last elements are padding.
  std::int64_t cast_partial(std::int64_t block, AbstentionWriter& writer) const {
    const float* const x = x_ + block * segment_.block;
    const std::int64_t real = segment_.cols - block * segment_.block % segment_.row_stride;
    std::array<float, kBallotAlignment> padded;
    // Padding repeats the first element here: that changes neither the least nor the most
    // magnitude.
    std::copy_n(x, real, padded.begin());
    std::fill(padded.begin() + real, padded.begin() + segment_.block, x[0]);
    std::uint64_t* const words = bits_ + block * block_words_;
    std::uint8_t flag;
    kernels().pack_blocks(padded.data(), 1, block_words_, threshold_, words, &flag);
    const bool abstains = flag & kBlockIsSilent;
    if (abstains) {
      clear(block, block + 1);
    } else {
      if (flag & kBlockHasZeros) toss_zeros(x, block, real);
      for (std::int64_t w = 0; w < block_words_; ++w)
        words[w] &= low_bits(std::min<std::int64_t>(64, real - w * 64));
    }
    writer.put(abstains);
    return abstains;
  }

  // Gives the zeros among the first `real` elements of a block their coins.
  void toss_zeros(const float* x, std::int64_t block, std::int64_t real) const {
    std::uint64_t* const words = bits_ + block * block_words_;
    for (std::int64_t w = 0; w * 64 < real; ++w) {
      const std::uint64_t zeros = zero_word(x + w * 64, std::min<std::int64_t>(64, real - w * 64));
      if (zeros == 0) continue;
      const std::int64_t arena_word = segment_.arena_offset / 64 + block * block_words_ + w;
      const std::uint64_t coins =
          zero_coins(options_.seed, options_.step, arena_word, options_.voter);
      words[w] = (words[w] & ~zeros) | (coins & zeros);
    }
  }

  void clear(std::int64_t begin, std::int64_t end) const {
    std::fill(bits_ + begin * block_words_, bits_ + end * block_words_, 0);
  }

  const float* x_;
  const BallotSegment& segment_;
  const CastOptions& options_;
  std::span<const std::uint8_t> silent_rows_;
  double threshold_;
  std::int64_t block_words_;
  std::uint64_t* bits_;  // of the segment
  std::uint64_t* abstentions_;
};

// Writes `count` bits from bit 0 of `source` to the abstentions from `block` on; returns how many
// are 1. Whole words are this segment's alone.
std::int64_t put_abstentions(const std::uint64_t* source, std::int64_t block, std::int64_t count,
                             std::uint64_t* words) {
  std::int64_t ones = 0;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t to = block + done, piece = std::min(count - done, 64 - to % 64);
    std::uint64_t bits = source[done / 64] >> (done % 64);
    if (done % 64 + piece > 64) bits |= source[done / 64 + 1] << (64 - done % 64);
    bits &= low_bits(piece);
    const std::uint64_t mask = low_bits(piece) << (to % 64);
    if (piece == 64) {
      words[to / 64] = bits;
    } else {
      const std::atomic_ref<std::uint64_t> word(words[to / 64]);
      word.fetch_or(bits << (to % 64), std::memory_order_relaxed);
      word.fetch_and(bits << (to % 64) | ~mask, std::memory_order_relaxed);
    }
    ones += std::popcount(bits);
    done += piece;
  }
  return ones;
}

void require_castable(const Tensor& direction, const BallotSegment& segment,
                      const CastOptions& options, const Ballot& ballot) {
  require(direction.rank == 2 && direction.extent[0] == segment.rows &&
              direction.extent[1] == segment.cols &&
              (segment.rows == 1 || direction.stride[0] == segment.row_stride) &&
              (segment.cols == 1 || direction.stride[1] == 1),
          "segment {} ({}, {}) with rows {} apart: direction {}", segment.name, segment.rows,
          segment.cols, segment.row_stride, direction.describe());
  require(options.abstain_below >= 0, "abstain_below = {}, expected 0 or more",
          options.abstain_below);
  require(segment.block > 0 && segment.offset + segment.extent() <= ballot.layout().extent(),
          "segment {} is not one of the ballot's layout", segment.name);
  require(direction.device == ballot.device(), "segment {}: a direction on {}, a ballot of {}",
          segment.name, to_string(direction.device), to_string(ballot.device()));
}

// Scratch of the device: flags of the segment's rows.
std::int64_t cast_on_gpu(const Tensor& direction, const BallotSegment& segment,
                         const CastOptions& options, std::span<const std::uint8_t> silent_rows,
                         Ballot& ballot, Stream& stream) {
  Buffer flags(silent_rows.size(), direction.device);
  copy_bytes(flags.data(), direction.device, silent_rows.data(), Device{}, silent_rows.size(),
             stream);
  start_cast(direction, segment, options,
             silent_rows.empty() ? nullptr : flags.as<const std::uint8_t>(), nullptr, ballot,
             stream);
  stream.synchronize();
  return end_cast(segment, ballot);
}

// A segment's place among abstentions on their way: segments begin at multiples of
// kBallotAlignment, of which each has fewer blocks than a word has bits.
std::int64_t abstention_word(const BallotSegment& segment) {
  return segment.offset / kBallotAlignment;
}
std::size_t abstention_words(const BallotLayout& layout) {
  return static_cast<std::size_t>((layout.extent() + kBallotAlignment - 1) / kBallotAlignment);
}

}  // namespace

Ballot::Ballot(const BallotLayout& layout, Device device, bool host_bits)
    : layout_(&layout),
      device_(device),
      bits_(host_bits ? layout.extent() : 0, device),
      abstentions_(layout.blocks()) {
  require(host_bits || device.kind == Device::Kind::cuda, "a ballot that lies nowhere");
  if (device.kind != Device::Kind::cuda) return;
  device_bits_ = Buffer(static_cast<std::size_t>(layout.extent() / 8), device);
  cast_ = Buffer(abstention_words(layout) * 8, device);
  arrived_ = PinnedBuffer(abstention_words(layout) * 8, device);
}

std::uint64_t* Ballot::cast_abstentions(const BallotSegment& segment) const {
  return cast_.as<std::uint64_t>() + abstention_word(segment);
}
std::uint64_t* Ballot::arrived_abstentions(const BallotSegment& segment) const {
  return arrived_.as<std::uint64_t>() + abstention_word(segment);
}

std::int64_t cast_ballot(const Tensor& direction, const BallotSegment& segment,
                         const CastOptions& options, std::span<const std::uint8_t> silent_rows,
                         Ballot& ballot, Stream& stream) {
  require_castable(direction, segment, options, ballot);
  require(silent_rows.empty() || static_cast<std::int64_t>(silent_rows.size()) == segment.rows,
          "segment {}: {} flags of silent rows for {} rows", segment.name, silent_rows.size(),
          segment.rows);
  if (direction.device.kind == Device::Kind::cuda)
    return cast_on_gpu(direction, segment, options, silent_rows, ballot, stream);
  const float* const x = direction.f32();
  double threshold = 0;
  if (options.abstain_below > 0)
    threshold =
        options.abstain_below *
        (options.root_mean_square >= 0 ? options.root_mean_square : root_mean_square(x, segment));
  const BlockCaster caster(x, segment, options, silent_rows, threshold, ballot);
  std::atomic<std::int64_t> abstained = 0;
  parallel_for(segment.blocks(), kGrain / segment.block,
               [&](std::int64_t begin, std::int64_t end) { abstained += caster.cast(begin, end); });
  return abstained;
}

// Scratch of the device: sums of the segment's rows, the threshold.
void start_cast(const Tensor& direction, const BallotSegment& segment, const CastOptions& options,
                const std::uint8_t* silent_rows, const double* gate, Ballot& ballot,
                Stream& stream) {
  require_castable(direction, segment, options, ballot);
  const Device device = direction.device;
  require(device.kind == Device::Kind::cuda, "a ballot started on {}", to_string(device));
  if (options.root_mean_square >= 0)
    throw Unavailable("segment {}: a part of a tensor is cast on the CPU only", segment.name);
  float* threshold = nullptr;
  CudaVote& gpu = cuda_vote();
  if (options.abstain_below > 0) {
    const auto rows = static_cast<std::size_t>(segment.rows);
    auto* const row_sums = reinterpret_cast<double*>(stream.scratch((rows + 1) * sizeof(double)));
    threshold = reinterpret_cast<float*>(row_sums + rows);
    gpu.find_threshold(direction, options.abstain_below, row_sums, threshold, stream);
  }
  std::uint64_t* const bits = ballot.device_bits() + segment.offset / 64;
  std::uint64_t* const abstentions = ballot.cast_abstentions(segment);
  const auto abstention_bytes = static_cast<std::size_t>((segment.blocks() + 63) / 64 * 8);
  fill_zero(abstentions, abstention_bytes, stream);
  gpu.pack_signs({.direction = direction.f32(),
                  .rows = segment.rows,
                  .cols = segment.cols,
                  .row_stride = segment.row_stride,
                  .block = segment.block,
                  .arena_word = segment.arena_offset / 64,
                  .coin_stream = zero_coin_stream(options.seed, options.step, options.voter),
                  .threshold = threshold,
                  .silent_rows = silent_rows,
                  .gate = gate,
                  .bits = bits,
                  .abstentions = abstentions},
                 stream);
  copy_bytes(ballot.arrived_abstentions(segment), Device{}, abstentions, device, abstention_bytes,
             stream);
  if (ballot.bits().bit_count() > 0)
    copy_bytes(ballot.bits().words() + segment.offset / 64, Device{}, bits, device,
               static_cast<std::size_t>(segment.extent() / 8), stream);
}

std::int64_t end_cast(const BallotSegment& segment, Ballot& ballot) {
  return put_abstentions(ballot.arrived_abstentions(segment), segment.first_block, segment.blocks(),
                         ballot.abstentions().words());
}

void start_abstain(const BallotSegment& segment, Ballot& ballot, Stream& stream) {
  fill_zero(ballot.device_bits() + segment.offset / 64,
            static_cast<std::size_t>(segment.extent() / 8), stream);
}

void abstain(const BallotSegment& segment, Ballot& ballot) {
  if (ballot.bits().bit_count() > 0)
    std::memset(ballot.bits().words() + segment.offset / 64, 0,
                static_cast<std::size_t>(segment.extent() / 8));
  AbstentionWriter writer(ballot.abstentions().words(), segment.first_block);
  for (std::int64_t block = 0; block < segment.blocks(); ++block) writer.put(true);
}

std::uint64_t zero_coins(std::uint64_t seed, std::int64_t step, std::int64_t arena_word,
                         int voter) {
  return mix64(zero_coin_stream(seed, step, voter) ^ static_cast<std::uint64_t>(arena_word));
}

std::uint64_t zero_coin_stream(std::uint64_t seed, std::int64_t step, int voter) {
  const std::uint64_t stream = hash64(seed, kZeroDomain, static_cast<std::uint64_t>(step));
  return mix64(mix64(stream) ^ static_cast<std::uint64_t>(voter));
}

std::uint64_t tie_coins(std::uint64_t seed, std::int64_t step, std::int64_t arena_word) {
  return mix64(tie_coin_stream(seed, step) ^ static_cast<std::uint64_t>(arena_word));
}

std::uint64_t tie_coin_stream(std::uint64_t seed, std::int64_t step) {
  return hash64(seed, kTieDomain, static_cast<std::uint64_t>(step));
}

}  // namespace ballot
