// Counter-based random bits: a pure function of its arguments, the same on every machine and
// device.
//
// Three rounds of the 64-bit finalizer of SplitMix64 (Steele, Lea, Flood 2014), one argument
// absorbed per round. Used for tie coins, zero coins and sample ids; not for secrets.
#pragma once

#include <cstdint>

namespace ballot {

constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// 64 independent fair bits for (seed, a, b).
constexpr std::uint64_t hash64(std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
  return mix64(mix64(mix64(seed) ^ a) ^ b);
}
constexpr std::uint64_t hash64(std::uint64_t seed, std::uint64_t a, std::uint64_t b,
                               std::uint64_t c) {
  return mix64(hash64(seed, a, b) ^ c);
}

}  // namespace ballot
