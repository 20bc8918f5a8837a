// Shifts and masks over tiles of 512 elements.

#include "collectives/lanes.h"

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

constexpr std::int64_t kTile = 8;    // words of bits, or of 64 / L lanes each
constexpr std::int64_t kGrain = 64;  // tiles that are worth a thread
constexpr std::int64_t kRow = 16;    // uint32 that are summed beside one another
constexpr std::int64_t kRowGrain = 2048;

// Eight words at once; rows of lanes are written so and read as uint32, from any 8-byte place.
using Wide = std::uint64_t __attribute__((vector_size(64), aligned(8), may_alias));
using Row = std::uint32_t __attribute__((vector_size(64), aligned(4), may_alias));

// A 1 in the lowest bit of every lane.
constexpr std::uint64_t lowest_bits(int bits) {
  std::uint64_t mask = 0;
  for (int i = 0; i < 64; i += bits) mask |= std::uint64_t{1} << i;
  return mask;
}

template <int kBits>
[[gnu::always_inline]] inline void expand_tile(const std::uint64_t* bits, std::uint32_t* lanes) {
  const Wide word = *reinterpret_cast<const Wide*>(bits);
  Wide* const out = reinterpret_cast<Wide*>(lanes);
#pragma GCC unroll 16
  for (int k = 0; k < kBits; ++k) out[k] = (word >> k) & lowest_bits(kBits);
}

// Returns what is above `voters` (not 0: something is).
template <int kBits>
[[gnu::always_inline]] inline std::uint64_t collect_tile(const std::uint32_t* lanes, int voters,
                                                         std::uint64_t* planes, std::int64_t stride,
                                                         int digits) {
  constexpr std::uint64_t kLowest = lowest_bits(kBits);
  const Wide* const in = reinterpret_cast<const Wide*>(lanes);
  Wide all = in[0];
#pragma GCC unroll 16
  for (int k = 1; k < kBits; ++k) all |= in[k];
  // Digits that no count of so many voters has.
  Wide above = all & ~(kLowest * ((std::uint64_t{1} << digits) - 1));
  // Then as one compares numbers, from the highest digit.
  Wide equal = ~(above ^ above);
  for (int digit = digits - 1; digit >= 0; --digit) {
    Wide plane = above ^ above;
#pragma GCC unroll 16
    for (int k = 0; k < kBits; ++k) plane |= ((in[k] >> digit) & kLowest) << k;
    *reinterpret_cast<Wide*>(planes + digit * stride) = plane;
    const std::uint64_t limit = (voters >> digit) & 1 ? ~std::uint64_t{0} : 0;
    above |= equal & plane & ~limit;
    equal &= ~(plane ^ limit);
  }
  std::uint64_t any = 0;
  for (int w = 0; w < kTile; ++w) any |= above[w];
  return any;
}

BALLOT_VECTORIZED
void expand_tiles(const std::uint64_t* __restrict bits, std::int64_t tiles, int lane_bits,
                  std::uint32_t* __restrict lanes) {
  const std::int64_t step = lane_values(kTile, lane_bits);
  for (std::int64_t t = 0; t < tiles; ++t, bits += kTile, lanes += step) switch (lane_bits) {
      case 2:
        expand_tile<2>(bits, lanes);
        break;
      case 4:
        expand_tile<4>(bits, lanes);
        break;
      case 8:
        expand_tile<8>(bits, lanes);
        break;
      default:
        expand_tile<16>(bits, lanes);
    }
}

BALLOT_VECTORIZED
std::uint64_t collect_tiles(const std::uint32_t* __restrict lanes, std::int64_t tiles,
                            int lane_bits, int voters, std::uint64_t* __restrict planes,
                            std::int64_t stride, int digits) {
  const std::int64_t step = lane_values(kTile, lane_bits);
  std::uint64_t above = 0;
  for (std::int64_t t = 0; t < tiles; ++t, lanes += step, planes += kTile) switch (lane_bits) {
      case 2:
        above |= collect_tile<2>(lanes, voters, planes, stride, digits);
        break;
      case 4:
        above |= collect_tile<4>(lanes, voters, planes, stride, digits);
        break;
      case 8:
        above |= collect_tile<8>(lanes, voters, planes, stride, digits);
        break;
      default:
        above |= collect_tile<16>(lanes, voters, planes, stride, digits);
    }
  return above;
}

// sums[0 .. 15] += the rows' column sums, sums[16 .. 31] += the sums of row number x value, without
// a multiplication: a sum of running sums counts each value once for every row from its own on.
BALLOT_VECTORIZED
void sum_rows(const std::uint32_t* __restrict values, std::int64_t first_row, std::int64_t rows,
              std::uint32_t* __restrict sums) {
  Row plain = {}, running = {};
  const Row* const in = reinterpret_cast<const Row*>(values);
  for (std::int64_t row = 0; row < rows; ++row) {
    plain += in[row];
    running += plain;
  }
  const std::uint32_t end = static_cast<std::uint32_t>(first_row + rows);
  for (int i = 0; i < kRow; ++i) {
    sums[i] += plain[i];
    sums[kRow + i] += end * plain[i] - running[i];
  }
}

void require_tiles(std::int64_t words, int bits) {
  require(words % kTile == 0, "lanes of {} words, expected a multiple of {}", words, kTile);
  require(bits == 2 || bits == 4 || bits == 8 || bits == 16, "lanes of {} bits", bits);
}

}  // namespace

int lane_bits(int voters) {
  require(voters >= 1 && voters <= 1024, "lanes for {} voters, expected 1 to 1024", voters);
  return voters <= 3 ? 2 : voters <= 15 ? 4 : voters <= 255 ? 8 : 16;
}

void expand_lanes(const std::uint64_t* bits, std::int64_t words, int lane_bits,
                  std::uint32_t* lanes) {
  require_tiles(words, lane_bits);
  parallel_for(words / kTile, kGrain, [&](std::int64_t begin, std::int64_t end) {
    expand_tiles(bits + begin * kTile, end - begin, lane_bits,
                 lanes + lane_values(begin * kTile, lane_bits));
  });
}

bool collect_planes(const std::uint32_t* lanes, std::int64_t words, int lane_bits, int voters,
                    std::uint64_t* planes, int digits) {
  require_tiles(words, lane_bits);
  require(digits >= 1 && digits <= lane_bits, "{} digits of lanes of {} bits", digits, lane_bits);
  std::atomic<bool> above{false};
  parallel_for(words / kTile, kGrain, [&](std::int64_t begin, std::int64_t end) {
    if (collect_tiles(lanes + lane_values(begin * kTile, lane_bits), end - begin, lane_bits, voters,
                      planes + begin * kTile, words, digits) != 0)
      above = true;
  });
  return !above;
}

std::uint32_t lane_of(const std::uint32_t* lanes, std::int64_t element, int lane_bits) {
  const std::int64_t bit = element % 64;
  const std::int64_t wide =
      (element / 512 * lane_bits + bit % lane_bits) * kTile + element / 64 % kTile;
  const std::int64_t shift = bit / lane_bits * lane_bits;
  return (lanes[2 * wide + shift / 32] >> (shift % 32)) & ((std::uint32_t{1} << lane_bits) - 1);
}

std::uint32_t linear_checksum(const std::uint32_t* values, std::int64_t count) {
  const std::int64_t rows = count / kRow;
  std::atomic<std::uint32_t> total{0};
  parallel_for(rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t sums[2 * kRow] = {};
    sum_rows(values + begin * kRow, begin, end - begin, sums);
    // Value i = 16 row + column has the weight 2 i + 1 = 32 row + 2 column + 1.
    std::uint32_t sum = 0;
    for (std::uint32_t column = 0; column < kRow; ++column)
      sum += (2 * column + 1) * sums[column] + 2 * kRow * sums[kRow + column];
    total += sum;
  });
  std::uint32_t sum = total;
  for (std::int64_t i = rows * kRow; i < count; ++i)
    sum += (2 * static_cast<std::uint32_t>(i) + 1) * values[i];
  return sum;
}

}  // namespace ballot
