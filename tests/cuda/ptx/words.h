// Values of a type in the low bytes of a register slot; zeros above.
#pragma once

#include <cstdint>
#include <cstring>

namespace ballot::ptx {

template <class T>
T value_of(std::uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}
template <>
inline bool value_of<bool>(std::uint64_t word) {
  return (word & 1) != 0;
}
template <class T>
std::uint64_t word_of(T value) {
  std::uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}

}  // namespace ballot::ptx
