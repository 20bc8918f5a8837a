#include "core/digest.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
#include <bit>
#include <charconv>

#include "core/error.h"

namespace ballot {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are hashed as they lie");

Digest to_digest(XXH128_hash_t hash) {
  return {hash.high64, hash.low64};
}

}  // namespace

struct DigestStream::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Digest digest_of(std::span<const std::byte> bytes) {
  return to_digest(XXH3_128bits(bytes.data(), bytes.size()));
}

DigestStream::DigestStream() : state_(std::make_unique<State>()) {
  require(state_->xxh != nullptr && XXH3_128bits_reset(state_->xxh) == XXH_OK, "no digest state");
}
DigestStream::DigestStream(DigestStream&&) noexcept = default;
DigestStream& DigestStream::operator=(DigestStream&&) noexcept = default;
DigestStream::~DigestStream() = default;

void DigestStream::add(std::span<const std::byte> bytes) {
  if (!bytes.empty()) XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

void DigestStream::add(std::uint64_t number) {
  add(std::as_bytes(std::span(&number, 1)));
}

void DigestStream::add(const Digest& digest) {
  add(digest.high);
  add(digest.low);
}

Digest DigestStream::digest() const {
  return to_digest(XXH3_128bits_digest(state_->xxh));
}

std::string to_string(const Digest& digest) {
  return fmt::format("{:016x}{:016x}", digest.high, digest.low);
}

std::optional<Digest> parse_digest(std::string_view text) {
  if (text.size() != 32) return std::nullopt;
  std::array<std::uint64_t, 2> halves{};
  for (std::size_t i = 0; i < 2; ++i) {
    const std::string_view half = text.substr(i * 16, 16);
    const auto [end, error] =
        std::from_chars(half.data(), half.data() + half.size(), halves[i], 16);
    if (error != std::errc{} || end != half.data() + half.size()) return std::nullopt;
  }
  return Digest{halves[0], halves[1]};
}

}  // namespace ballot
