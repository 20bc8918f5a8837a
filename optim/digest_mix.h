// One element's share of a parameter's digest, for every device.
#pragma once

#include <cstdint>

namespace ballot {

inline constexpr std::uint64_t kDigestIndexFactor = 0x9e3779b97f4a7c15ull;
inline constexpr std::uint64_t kDigestMixFactor = 0xbf58476d1ce4e5b9ull;

// `start` is the element's arena index times kDigestIndexFactor. Each step is a bijection of 64
// bits, so for one index different bits give different digests; the shifts keep sums of digests
// from being linear in the bits.
[[gnu::always_inline]] constexpr std::uint64_t mix_digest(std::uint32_t bits, std::uint64_t start) {
  std::uint64_t x = start + bits;
  x = (x ^ (x >> 32)) * kDigestMixFactor;
  return x ^ (x >> 32);
}

}  // namespace ballot
