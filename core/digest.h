// 128-bit digests (XXH3-128, Collet) that name bytes and histories: against accidents, not against
// anybody who wants a collision.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace ballot {

struct Digest {
  std::uint64_t high = 0, low = 0;
  auto operator<=>(const Digest&) const = default;
};

Digest digest_of(std::span<const std::byte> bytes);
inline Digest digest_of(std::string_view text) {
  return digest_of(std::as_bytes(std::span(text)));
}

// The same of bytes that come in parts: cuts do not matter.
class DigestStream {
 public:
  DigestStream();
  DigestStream(DigestStream&&) noexcept;
  DigestStream& operator=(DigestStream&&) noexcept;
  ~DigestStream();
  void add(std::span<const std::byte> bytes);
  // The number's eight bytes, little-endian.
  void add(std::uint64_t number);
  void add(const Digest& digest);
  Digest digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 32 hexadecimal digits, the high half first.
std::string to_string(const Digest& digest);
std::optional<Digest> parse_digest(std::string_view text);

}  // namespace ballot
