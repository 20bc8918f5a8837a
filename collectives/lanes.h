// Ballots as counters that a network can add: every element gets a lane of a uint32, wide enough
// that the sum over all voters cannot overflow into the next lane.
//
// Lanes have 2 bits for up to 3 voters, 4 for 15, 8 for 255, 16 for 1024. They lie where shifting
// and masking whole registers puts them, so that expanding runs at the speed of memory on any
// processor and gives the same bits on all: of a 64-bit word of bits, the elements k, k + L, k +
// 2L, .. (L bits a lane) become the lanes of one 64-bit word, which is (word >> k) & mask; the L
// words of eight words of bits (512 elements) lie together, all k = 0 first. A 64-bit word is two
// uint32, the lower half first; no lane crosses its middle. lanes_reference.h is the slow truth.
#pragma once

#include <cstdint>

namespace ballot {

// 2, 4, 8 or 16, for 1 to 1024 voters.
int lane_bits(int voters);

// How many uint32 the lanes of `words` words of bits are; `words` is a multiple of 8.
constexpr std::int64_t lane_values(std::int64_t words, int bits) {
  return 2 * words * bits;
}

// lanes <- the bits, each in its lane. lane_values(words, bits) values are written; 8-byte aligned.
void expand_lanes(const std::uint64_t* bits, std::int64_t words, int lane_bits,
                  std::uint32_t* lanes);

// The counts in bit-sliced form: plane k, at planes + k * words, holds digit k of every element's
// count; `digits` planes, at most as many as a lane has bits. False, with planes of no meaning, if
// some lane is above `voters`: no sum of that many ballots.
bool collect_planes(const std::uint32_t* lanes, std::int64_t words, int lane_bits, int voters,
                    std::uint64_t* planes, int digits);

// The count of one element of the row.
std::uint32_t lane_of(const std::uint32_t* lanes, std::int64_t element, int lane_bits);

// Sum of (2 i + 1) x values[i] modulo 2^32. It is linear: the checksum of a sum is the sum of the
// checksums, so it can be summed beside the values and compared afterwards. A single changed value
// always shows, several stay hidden once in 2^32.
std::uint32_t linear_checksum(const std::uint32_t* values, std::int64_t count);

}  // namespace ballot
