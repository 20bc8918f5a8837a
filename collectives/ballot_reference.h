// The slow truth of a ballot: one element at a time. What cast_ballot() must give, bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "collectives/ballot.h"

namespace ballot {

// The root mean square here is summed in another order than cast_ballot's: they differ in the last
// digits.
inline std::int64_t cast_ballot_reference(const float* direction, const BallotSegment& segment,
                                          const CastOptions& options,
                                          std::span<const std::uint8_t> silent_rows,
                                          Ballot& ballot) {
  double squares = 0;
  for (std::int64_t row = 0; row < segment.rows; ++row)
    for (std::int64_t col = 0; col < segment.cols; ++col)
      squares += std::pow(static_cast<double>(direction[row * segment.row_stride + col]), 2);
  const double rms = std::sqrt(squares / static_cast<double>(segment.rows * segment.cols));

  std::int64_t abstained = 0;
  for (std::int64_t block = 0; block < segment.blocks(); ++block) {
    const std::int64_t first = block * segment.block, row = first / segment.row_stride;
    double largest = 0;
    for (std::int64_t i = first; i < first + segment.block; ++i)
      if (i % segment.row_stride < segment.cols)
        largest = std::max(largest, static_cast<double>(std::fabs(direction[i])));
    const bool silent = !silent_rows.empty() && silent_rows[static_cast<std::size_t>(row)] != 0;
    const bool abstains = silent || largest <= options.abstain_below * rms;
    const std::int64_t n = segment.first_block + block;
    const std::uint64_t mask = std::uint64_t{1} << (n % 64);
    std::uint64_t& word = ballot.abstentions().words()[n / 64];
    word = abstains ? word | mask : word & ~mask;
    abstained += abstains;
    for (std::int64_t i = first; i < first + segment.block; ++i) {
      bool negative = false;
      if (!abstains && i % segment.row_stride < segment.cols) {
        const std::int64_t arena = segment.arena_offset + i;
        const bool coin =
            (zero_coins(options.seed, options.step, arena / 64, options.voter) >> (arena % 64)) &
            1u;
        negative = direction[i] == 0 ? coin : std::signbit(direction[i]);
      }
      const std::int64_t at = segment.offset + i;
      const std::uint64_t bit = std::uint64_t{1} << (at % 64);
      std::uint64_t& bits_word = ballot.bits().words()[at / 64];
      bits_word = negative ? bits_word | bit : bits_word & ~bit;
    }
  }
  return abstained;
}

}  // namespace ballot
