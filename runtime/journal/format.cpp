#include "runtime/journal/format.h"

#include <fmt/format.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>

#include "core/error.h"
#include "runtime/journal/byte_io.h"

namespace ballot::journal {
namespace {

constexpr std::uint64_t kSegmentMagic = 0x4c4e524a544c4142;  // "BALTJRNL" as it lies
constexpr std::uint32_t kFrameMagic = 0x464a4c42;            // "BLJF" as it lies
constexpr std::string_view kSuffix = ".journal";

}  // namespace

std::vector<std::byte> encode(const SegmentHeader& header) {
  ByteWriter out(kSegmentHeaderBytes);
  out.put(kSegmentMagic);
  out.put(kFormatVersion);
  out.put(static_cast<std::uint32_t>(kSegmentHeaderBytes));
  out.put(header.run);
  out.put(header.start.step);
  out.put(header.start.digest);
  out.put(static_cast<std::uint64_t>(XXH3_64bits(out.from(0).data(), out.size())));
  return out.take();
}

std::optional<SegmentHeader> read_segment_header(std::span<const std::byte> bytes,
                                                 std::string_view source) {
  if (bytes.size() < kSegmentHeaderBytes) return std::nullopt;
  bytes = bytes.first(kSegmentHeaderBytes);
  ByteReader in(bytes, source, 0);
  if (in.get<std::uint64_t>("magic") != kSegmentMagic) return std::nullopt;
  std::uint64_t checksum = 0;
  std::memcpy(&checksum, bytes.data() + kSegmentHeaderBytes - 8, 8);
  if (checksum != XXH3_64bits(bytes.data(), kSegmentHeaderBytes - 8)) return std::nullopt;
  const auto version = in.get<std::uint32_t>("format");
  const auto size = in.get<std::uint32_t>("header size");
  if (version != kFormatVersion || size != kSegmentHeaderBytes)
    in.fail("format {} with a header of {} bytes, expected {} with {}", version, size,
            kFormatVersion, kSegmentHeaderBytes);
  SegmentHeader header;
  header.run = in.get_digest("run");
  header.start.step = in.get<std::int64_t>("starting step");
  header.start.digest = in.get_digest("starting digest");
  if (header.start.step < 0) in.fail("it starts after step {}", header.start.step);
  return header;
}

std::vector<std::byte> encode(const FrameHeader& header, std::uint64_t seed) {
  ByteWriter out(kFrameHeaderBytes);
  out.put(kFrameMagic);
  out.put(header.kind);
  out.put(header.step);
  out.put(header.length);
  out.put(header.checksum);
  out.put(static_cast<std::uint64_t>(XXH3_64bits_withSeed(out.from(0).data(), out.size(), seed)));
  return out.take();
}

std::optional<FrameHeader> read_frame_header(std::span<const std::byte> bytes, std::uint64_t seed) {
  if (bytes.size() < kFrameHeaderBytes) return std::nullopt;
  bytes = bytes.first(kFrameHeaderBytes);
  ByteReader in(bytes, "frame", 0);
  if (in.get<std::uint32_t>("magic") != kFrameMagic) return std::nullopt;
  FrameHeader header;
  header.kind = in.get<std::uint32_t>("kind");
  header.step = in.get<std::int64_t>("step");
  header.length = in.get<std::uint64_t>("length");
  header.checksum = in.get<std::uint64_t>("checksum");
  const auto checksum = in.get<std::uint64_t>("header checksum");
  if (checksum != XXH3_64bits_withSeed(bytes.data(), kFrameHeaderBytes - 8, seed))
    return std::nullopt;
  return header;
}

std::uint64_t frame_seed(std::int64_t first_step, std::uint64_t offset) {
  return static_cast<std::uint64_t>(first_step) * 0x9e3779b97f4a7c15ull + offset;
}

std::uint64_t frame_checksum(std::span<const std::byte> payload, std::uint64_t seed) {
  return XXH3_64bits_withSeed(payload.data(), payload.size(), seed);
}

std::string segment_name(std::int64_t first_step) {
  return fmt::format("{:012}{}", first_step, kSuffix);
}

std::optional<std::int64_t> first_step_of(std::string_view name) {
  if (!name.ends_with(kSuffix)) return std::nullopt;
  const std::string_view digits = name.substr(0, name.size() - kSuffix.size());
  std::int64_t step = 0;
  const bool valid =
      digits.size() >= 12 && digits.size() <= 18 && std::ranges::all_of(digits, [](char c) {
        return std::isdigit(static_cast<unsigned char>(c));
      });
  if (!valid ||
      std::from_chars(digits.data(), digits.data() + digits.size(), step).ec != std::errc{})
    return std::nullopt;
  if (segment_name(step) != name) return std::nullopt;
  return step;
}

}  // namespace ballot::journal
