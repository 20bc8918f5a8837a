// The constants of a segment file and its checksums: docs/journal-format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "runtime/protocol/position.h"

namespace ballot::journal {

inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::size_t kSegmentHeaderBytes = 64;
inline constexpr std::size_t kFrameHeaderBytes = 40;

inline constexpr std::uint32_t kRecordFrame = 1;
inline constexpr std::uint32_t kAppliedFrame = 2;

struct SegmentHeader {
  Digest run;
  Position start;  // the chain before the segment's first record
};

struct FrameHeader {
  std::uint32_t kind = 0;
  std::int64_t step = 0;
  std::uint64_t length = 0;    // of the payload, a multiple of 8
  std::uint64_t checksum = 0;  // of the payload
};

std::vector<std::byte> encode(const SegmentHeader& header);
std::vector<std::byte> encode(const FrameHeader& header, std::uint64_t seed);

// None where the bytes are not one: short, or with a wrong magic number or checksum. CorruptFile
// for a whole one of another format.
std::optional<SegmentHeader> read_segment_header(std::span<const std::byte> bytes,
                                                 std::string_view source);
std::optional<FrameHeader> read_frame_header(std::span<const std::byte> bytes, std::uint64_t seed);

// A frame's checksums are seeded with its place, so that bytes which lie elsewhere prove nothing.
std::uint64_t frame_seed(std::int64_t first_step, std::uint64_t offset);
std::uint64_t frame_checksum(std::span<const std::byte> payload, std::uint64_t seed);

// "000000000151.journal" and back; none for any other name.
std::string segment_name(std::int64_t first_step);
std::optional<std::int64_t> first_step_of(std::string_view name);

}  // namespace ballot::journal
