// One voter's packed signs for one step, plus its abstentions.
//
// Zeros and abstentions (the only place where these rules live): a block whose largest |x| is at
// most abstain_below times the tensor's RMS abstains (default 0: only blocks of exact zeros; +0 and
// -0 alike). Inside a block that votes, an exactly zero element takes an unbiased coin of (seed,
// step, element, voter). Padding columns are 0 and do not count as zeros; a block with no real
// element abstains. Bits of an abstaining block are 0. A NaN must not reach here (gradients are
// checked before anything absorbs them); if one does, its sign bit votes and its block does not
// abstain.
#pragma once

#include <cstdint>
#include <span>

#include "collectives/ballot_layout.h"
#include "collectives/bit_vector.h"
#include "core/buffer.h"
#include "core/copy.h"    // PinnedBuffer
#include "core/tensor.h"  // Tensor

namespace ballot {

class Ballot {
 public:
  // `device`: where directions are cast from. Of a GPU the bits lie there too, and with `host_bits`
  // false only there: for votes that count them there. Abstentions are always the host's.
  explicit Ballot(const BallotLayout& layout, Device device = {}, bool host_bits = true);
  const BallotLayout& layout() const { return *layout_; }
  Device device() const { return device_; }
  const BitVector& bits() const { return bits_; }                // empty without host_bits
  const BitVector& abstentions() const { return abstentions_; }  // 1 = this block says nothing
  std::uint64_t* device_bits() const { return device_bits_.as<std::uint64_t>(); }

  // Abstentions on their way: of each segment from a word of its own on, where the GPU writes them
  // and where the host takes them up.
  std::uint64_t* cast_abstentions(const BallotSegment& segment) const;
  std::uint64_t* arrived_abstentions(const BallotSegment& segment) const;

 private:
  const BallotLayout* layout_;
  Device device_;
  BitVector bits_;
  BitVector abstentions_;
  Buffer device_bits_, cast_;
  PinnedBuffer arrived_;
};

struct CastOptions {
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  int voter = 0;
  double abstain_below = 0;
  double root_mean_square = -1;  // of the tensor that the segment is a part of; < 0: all of it
};

// Packs the signs of `direction` (f32, the segment's rows and cols, rows row_stride apart, on the
// ballot's device, in memory of whole rows) into the ballot; waits for the stream.
// `silent_rows` may be empty; else one byte a row, non-zero = every block of that row
// abstains. Returns the number of blocks that abstained. Different segments may be cast from
// different threads.
std::int64_t cast_ballot(const Tensor& direction, const BallotSegment& segment,
                         const CastOptions& options, std::span<const std::uint8_t> silent_rows,
                         Ballot& ballot, Stream& stream);

// The same on a GPU in two steps: given to the stream, and taken over by the host when the stream
// has come past it. All memory handed in is the device's: flags of rows, or null; `gate` null, or
// where the sum of the gradient's squares will be: if it is not finite the segment abstains.
void start_cast(const Tensor& direction, const BallotSegment& segment, const CastOptions& options,
                const std::uint8_t* silent_rows, const double* gate, Ballot& ballot,
                Stream& stream);
std::int64_t end_cast(const BallotSegment& segment, Ballot& ballot);

// The whole segment says nothing this step. On a GPU the second is given to the stream first.
void abstain(const BallotSegment& segment, Ballot& ballot);
void start_abstain(const BallotSegment& segment, Ballot& ballot, Stream& stream);

// The coins, 64 at a time: for word `arena_word` = arena element / 64. Zero coins differ between
// voters, tie coins are the same everywhere.
std::uint64_t zero_coins(std::uint64_t seed, std::int64_t step, std::int64_t arena_word, int voter);
std::uint64_t tie_coins(std::uint64_t seed, std::int64_t step, std::int64_t arena_word);
// tie_coins(seed, step, word) = mix64(tie_coin_stream(seed, step) ^ word), for whole registers;
// zero_coins(seed, step, word, voter) = mix64(zero_coin_stream(seed, step, voter) ^ word).
std::uint64_t tie_coin_stream(std::uint64_t seed, std::int64_t step);
std::uint64_t zero_coin_stream(std::uint64_t seed, std::int64_t step, int voter);

}  // namespace ballot
