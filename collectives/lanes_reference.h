// The slow truth of lanes.h: one element at a time.
#pragma once

#include <cstdint>

namespace ballot {

struct LanePlace {
  std::int64_t value;  // which uint32
  int shift;           // its lowest bit there
};

inline LanePlace lane_place_reference(std::int64_t element, int lane_bits) {
  const std::int64_t tile = element / 512, word = element % 512 / 64, bit = element % 64;
  const std::int64_t wide = tile * 8 * lane_bits + bit % lane_bits * 8 + word;  // of 64 bits
  const std::int64_t shift = bit / lane_bits * lane_bits;
  return {2 * wide + shift / 32, static_cast<int>(shift % 32)};
}

inline std::uint32_t lane_reference(const std::uint32_t* lanes, std::int64_t element,
                                    int lane_bits) {
  const LanePlace place = lane_place_reference(element, lane_bits);
  return (lanes[place.value] >> place.shift) & ((std::uint32_t{1} << lane_bits) - 1);
}

inline void expand_lanes_reference(const std::uint64_t* bits, std::int64_t words, int lane_bits,
                                   std::uint32_t* lanes) {
  for (std::int64_t i = 0; i < 2 * words * lane_bits; ++i) lanes[i] = 0;
  for (std::int64_t element = 0; element < words * 64; ++element) {
    const LanePlace place = lane_place_reference(element, lane_bits);
    const std::uint64_t bit = (bits[element / 64] >> (element % 64)) & 1u;
    lanes[place.value] |= static_cast<std::uint32_t>(bit) << place.shift;
  }
}

}  // namespace ballot
