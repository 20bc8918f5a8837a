// Which pairs of tokens become one, and in which order: a hash table of 64-bit keys.
#pragma once

#include <cstdint>
#include <vector>

namespace ballot {

struct Merge {
  std::uint32_t rank = 0;  // lower is earlier
  std::int32_t token = -1;
};

class MergeTable {
 public:
  explicit MergeTable(std::size_t count = 0) {
    std::size_t size = 2;
    while (size < 2 * count) size *= 2;
    slots_.resize(size);
  }

  // A pair that is given again takes the later rank. At most `count` pairs.
  void set(std::int32_t left, std::int32_t right, Merge merge) {
    slots_[place_of(key_of(left, right))] = {key_of(left, right), merge};
  }
  const Merge* find(std::int32_t left, std::int32_t right) const {
    const Slot& slot = slots_[place_of(key_of(left, right))];
    return slot.merge.token < 0 ? nullptr : &slot.merge;
  }

 private:
  struct Slot {
    std::uint64_t key = 0;
    Merge merge;  // token -1: free
  };
  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t place_of(std::uint64_t key) const {
    std::size_t place = (key * 0x9e3779b97f4a7c15u) >> 20;  // the high bits are the mixed ones
    for (;; ++place) {
      place &= slots_.size() - 1;
      if (slots_[place].merge.token < 0 || slots_[place].key == key) return place;
    }
  }

  std::vector<Slot> slots_;  // a power of two, at most half full
};

}  // namespace ballot
