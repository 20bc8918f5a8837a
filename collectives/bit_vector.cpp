#include "collectives/bit_vector.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/error.h"

namespace ballot {
namespace {

// A word of which another thread may be changing other bits (the abstentions of the next tensor).
std::uint64_t load(const std::uint64_t& word) {
  return std::atomic_ref<std::uint64_t>(const_cast<std::uint64_t&>(word))
      .load(std::memory_order_relaxed);
}

// Bits [first, first + count) of `source` in the low end of a word; count in [1, 64].
std::uint64_t read_bits(const std::uint64_t* source, std::int64_t first, std::int64_t count) {
  const std::int64_t word = first / 64;
  const int shift = static_cast<int>(first % 64);
  std::uint64_t bits = load(source[word]) >> shift;
  if (shift != 0 && shift + count > 64) bits |= load(source[word + 1]) << (64 - shift);
  return bits & low_bits(count);
}

}  // namespace

BitVector::BitVector(std::int64_t bit_count, Device reader)
    : bit_count_(bit_count),
      words_(static_cast<std::size_t>((bit_count + 63) / 64) * sizeof(std::uint64_t), reader) {
  require(bit_count >= 0, "bit vector of {} bits", bit_count);
}

void BitVector::set(std::int64_t i, bool bit) {
  const std::uint64_t mask = std::uint64_t{1} << (i % 64);
  std::uint64_t& word = words()[i / 64];
  word = bit ? word | mask : word & ~mask;
}

void BitVector::clear() {
  if (word_count() > 0) std::memset(words(), 0, words_.size_bytes());
}

void copy_bits(const std::uint64_t* source, std::int64_t source_first, std::uint64_t* target,
               std::int64_t target_first, std::int64_t count) {
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t to = target_first + done;
    const std::int64_t piece = std::min(count - done, 64 - to % 64);
    const std::uint64_t bits = read_bits(source, source_first + done, piece) << (to % 64);
    const std::uint64_t mask = low_bits(piece) << (to % 64);
    target[to / 64] = (target[to / 64] & ~mask) | bits;
    done += piece;
  }
}

}  // namespace ballot
