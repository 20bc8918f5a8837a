// Bits in 64-bit words: element i is bit i % 64 of word i / 64, little-endian in memory and on the
// wire.
//
// 1 = negative (the IEEE sign bit), 0 = positive. Padding bits are 0. Owns its words, in host
// memory; many readers or one writer.
#pragma once

#include <cstdint>
#include <span>

#include "core/copy.h"  // PinnedBuffer

namespace ballot {

class BitVector {
 public:
  BitVector() = default;
  // `reader`: a GPU that copies from these words and to them while other work goes on.
  explicit BitVector(std::int64_t bit_count, Device reader = {});

  std::int64_t bit_count() const { return bit_count_; }
  std::int64_t word_count() const { return (bit_count_ + 63) / 64; }
  std::uint64_t* words() const { return words_.as<std::uint64_t>(); }
  std::span<std::uint64_t> span() const {
    return {words(), static_cast<std::size_t>(word_count())};
  }
  bool get(std::int64_t i) const { return (words()[i / 64] >> (i % 64)) & 1u; }
  void set(std::int64_t i, bool bit);
  void clear();

 private:
  std::int64_t bit_count_ = 0;
  PinnedBuffer words_;
};

// A word whose lowest `count` bits are 1; count in [0, 64].
constexpr std::uint64_t low_bits(std::int64_t count) {
  return count <= 0 ? 0 : ~std::uint64_t{0} >> (64 - count);
}

// Copies `count` bits between any bit positions; other bits of the target stay. Ranges must not
// overlap.
void copy_bits(const std::uint64_t* source, std::int64_t source_first, std::uint64_t* target,
               std::int64_t target_first, std::int64_t count);

}  // namespace ballot
