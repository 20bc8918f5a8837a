// Little-endian numbers into bytes and out of them again, never beyond the end.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "core/error.h"

namespace ballot {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie");

class ByteWriter {
 public:
  explicit ByteWriter(std::size_t expected = 0) { bytes_.reserve(expected); }

  template <class T>
  void put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    put_raw(&value, sizeof value);
  }
  void put(const Digest& digest) {
    put(digest.high);
    put(digest.low);
  }
  template <class T>
  void put_all(const std::vector<T>& values) {
    static_assert(std::is_arithmetic_v<T>);
    put_raw(values.data(), values.size() * sizeof(T));
  }
  // Zeros up to a multiple of 8.
  void pad() { bytes_.resize((bytes_.size() + 7) / 8 * 8); }

  std::size_t size() const { return bytes_.size(); }
  std::span<const std::byte> from(std::size_t begin) const {
    return std::span(bytes_).subspan(begin);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void put_raw(const void* data, std::size_t size) {
    const std::byte* first = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), first, first + size);
  }
  std::vector<std::byte> bytes_;
};

// Throws CorruptFile, naming `source` and the byte (counted from `offset`), where the bytes end
// before what is asked for. Sizes are checked against what is left before anything is allocated.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string_view source, std::uint64_t offset)
      : bytes_(bytes), source_(source), offset_(offset) {}

  template <class T>
  T get(const char* what) {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, take(1, sizeof value, what).data(), sizeof value);
    return value;
  }
  Digest get_digest(const char* what) {
    const auto high = get<std::uint64_t>(what);
    return {high, get<std::uint64_t>(what)};
  }
  template <class T>
  std::vector<T> get_all(std::uint64_t count, const char* what) {
    static_assert(std::is_arithmetic_v<T>);
    const std::span<const std::byte> raw = take(count, sizeof(T), what);
    std::vector<T> values(static_cast<std::size_t>(count));
    if (!raw.empty()) std::memcpy(values.data(), raw.data(), raw.size());
    return values;
  }
  // That `count` items of `size` bytes can follow.
  void expect(std::uint64_t count, std::uint64_t size, const char* what) const {
    if (count > left() / size)
      fail("{} of {} bytes or more, {} bytes are left", what, fmt::format("{} x {}", count, size),
           left());
  }
  void skip_padding() {
    const std::size_t size = (8 - at_ % 8) % 8;
    for (const std::byte byte : take(size, 1, "padding"))
      if (byte != std::byte{0}) fail("padding that is not zero");
  }
  std::span<const std::byte> between(std::size_t begin, std::size_t end) const {
    return bytes_.subspan(begin, end - begin);
  }
  std::size_t at() const { return at_; }
  std::uint64_t left() const { return bytes_.size() - at_; }

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw CorruptFile("{} at byte {}: {}", source_, offset_ + at_,
                      fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  std::span<const std::byte> take(std::uint64_t count, std::uint64_t size, const char* what) {
    expect(count, size, what);
    const auto taken = bytes_.subspan(at_, static_cast<std::size_t>(count * size));
    at_ += taken.size();
    return taken;
  }
  std::span<const std::byte> bytes_;
  std::string_view source_;
  std::uint64_t offset_;
  std::size_t at_ = 0;
};

}  // namespace ballot
