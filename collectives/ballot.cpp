#include "collectives/ballot.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace ballot {
namespace {

constexpr std::uint64_t kZeroDomain = 0x7a65726f636f696eull;  // "zerocoin"
constexpr std::uint64_t kTieDomain = 0x746965636f696e73ull;   // "tiecoins"

constexpr std::int64_t kGrain = 16384;  // elements that are worth a thread
constexpr std::uint32_t kMagnitude = 0x7fffffffu;

struct Magnitudes {
  std::uint32_t least;  // fp32 bits without sign: ordered as the magnitudes are, NaN above infinity
  std::uint32_t most;
};

// The sign bits of 64 elements; lanes are spelled out so that they become vector shifts.
inline std::uint64_t sign_word(const float* __restrict x) {
  std::uint32_t low = 0, high = 0;
  for (std::uint32_t i = 0; i < 32; ++i) low |= (std::bit_cast<std::uint32_t>(x[i]) >> 31) << i;
  for (std::uint32_t i = 0; i < 32; ++i)
    high |= (std::bit_cast<std::uint32_t>(x[32 + i]) >> 31) << i;
  return low | static_cast<std::uint64_t>(high) << 32;
}

// Signs of `words` * 64 elements.
BALLOT_VECTORIZED Magnitudes pack_signs(const float* __restrict x, std::uint64_t* __restrict bits,
                                        std::int64_t words) {
  Magnitudes range{kMagnitude, 0};
  for (std::int64_t w = 0; w < words; ++w, x += 64) {
    bits[w] = sign_word(x);
    std::uint32_t least = kMagnitude, most = 0;
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x[i]) & kMagnitude;
      least = least < magnitude ? least : magnitude;
      most = most > magnitude ? most : magnitude;
    }
    range.least = range.least < least ? range.least : least;
    range.most = range.most > most ? range.most : most;
  }
  return range;
}

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

struct BlockCaster {
  const float* x;
  const BallotSegment* segment;
  const CastOptions* options;
  std::span<const std::uint8_t> silent_rows;
  double threshold;
  std::uint64_t* bits;  // of the segment

  // Casts one block; true if it abstains.
  bool cast(std::int64_t block) const {
    const BallotSegment& s = *segment;
    const std::int64_t first = block * s.block;  // element in the segment
    const std::int64_t row = first / s.row_stride;
    const std::int64_t real = std::clamp<std::int64_t>(s.cols - first % s.row_stride, 0, s.block);
    std::uint64_t* words = bits + first / 64;
    const bool silent = !silent_rows.empty() && silent_rows[static_cast<std::size_t>(row)] != 0;
    if (silent || real == 0 || !vote(first, real, words)) {
      std::memset(words, 0, static_cast<std::size_t>(s.block / 8));
      return true;
    }
    return false;
  }

  // Packs the signs; false if the block has nothing to say.
  bool vote(std::int64_t first, std::int64_t real, std::uint64_t* words) const {
    const float* elements = x + first;
    const std::int64_t whole = (real + 63) / 64 * 64;
    std::array<float, kBallotAlignment> padded;
    if (real != whole) {
      // Padding repeats the first element here: that changes neither the least nor the most
      // magnitude.
      std::copy_n(elements, real, padded.begin());
      std::fill(padded.begin() + real, padded.begin() + whole, elements[0]);
      elements = padded.data();
    }
    const Magnitudes range = pack_signs(elements, words, whole / 64);
    if (std::bit_cast<float>(range.most) <= threshold) return false;  // false for NaN
    for (std::int64_t w = 0; w < segment->block / 64; ++w) {
      const std::int64_t count = std::clamp<std::int64_t>(real - w * 64, 0, 64);
      if (count == 0) {
        words[w] = 0;
        continue;
      }
      if (range.least == 0) {
        const std::uint64_t zeros = zero_word(elements + w * 64, count);
        if (zeros != 0) {
          const std::int64_t arena_word = (segment->arena_offset + first) / 64 + w;
          const std::uint64_t coins =
              zero_coins(options->seed, options->step, arena_word, options->voter);
          words[w] = (words[w] & ~zeros) | (coins & zeros);
        }
      }
      words[w] &= low_bits(count);
    }
    return true;
  }
};

}  // namespace

std::int64_t cast_ballot(const float* direction, const BallotSegment& segment,
                         const CastOptions& options, std::span<const std::uint8_t> silent_rows,
                         Ballot& ballot) {
  require(silent_rows.empty() || static_cast<std::int64_t>(silent_rows.size()) == segment.rows,
          "segment {}: {} flags of silent rows for {} rows", segment.name, silent_rows.size(),
          segment.rows);
  require(options.abstain_below >= 0, "abstain_below = {}, expected 0 or more",
          options.abstain_below);
  require(segment.block > 0 && segment.offset + segment.extent() <= ballot.layout().extent(),
          "segment {} is not one of the ballot's layout", segment.name);
  const double threshold = options.abstain_below > 0
                               ? options.abstain_below * root_mean_square(direction, segment)
                               : 0.0;
  const BlockCaster caster{direction,   &segment,  &options,
                           silent_rows, threshold, ballot.bits().words() + segment.offset / 64};
  std::atomic<std::int64_t> abstained = 0;
  parallel_for(segment.blocks(), kGrain / segment.block, [&](std::int64_t begin, std::int64_t end) {
    AbstentionWriter writer(ballot.abstentions().words(), segment.first_block + begin);
    std::int64_t silent = 0;
    for (std::int64_t block = begin; block < end; ++block) {
      const bool abstains = caster.cast(block);
      writer.put(abstains);
      silent += abstains;
    }
    abstained += silent;
  });
  return abstained;
}

void abstain(const BallotSegment& segment, Ballot& ballot) {
  std::memset(ballot.bits().words() + segment.offset / 64, 0,
              static_cast<std::size_t>(segment.extent() / 8));
  AbstentionWriter writer(ballot.abstentions().words(), segment.first_block);
  for (std::int64_t block = 0; block < segment.blocks(); ++block) writer.put(true);
}

std::uint64_t zero_coins(std::uint64_t seed, std::int64_t step, std::int64_t arena_word,
                         int voter) {
  const std::uint64_t stream = hash64(seed, kZeroDomain, static_cast<std::uint64_t>(step));
  return hash64(stream, static_cast<std::uint64_t>(voter), static_cast<std::uint64_t>(arena_word));
}

std::uint64_t tie_coins(std::uint64_t seed, std::int64_t step, std::int64_t arena_word) {
  return hash64(seed, kTieDomain, static_cast<std::uint64_t>(step),
                static_cast<std::uint64_t>(arena_word));
}

}  // namespace ballot
