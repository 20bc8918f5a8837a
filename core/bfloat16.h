// The upper half of an IEEE fp32: 8 bits of exponent, 7 of fraction. Storage and matrix inputs
// only; arithmetic is fp32. On a GPU too: constexpr functions are compiled for it.
#pragma once

#include <bit>
#include <cstdint>

namespace ballot {

struct bfloat16 {
  std::uint16_t bits;
};

constexpr float to_float(bfloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
constexpr float to_float(float x) {
  return x;
}

// Round to nearest, ties to even; NaN stays NaN (quiet).
constexpr bfloat16 to_bfloat16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (bits >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

template <class T>
constexpr T from_float(float x);
template <>
constexpr float from_float<float>(float x) {
  return x;
}
template <>
constexpr bfloat16 from_float<bfloat16>(float x) {
  return to_bfloat16(x);
}

}  // namespace ballot
