#include "collectives/transport/grpc_frames.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::uint32_t kMagic = 0x46544c42;  // "BLTF"

std::uint64_t checksum(const FrameHeader& header) {
  return XXH3_64bits(&header, offsetof(FrameHeader, checksum));
}

}  // namespace

void seal_frame_header(FrameHeader& header) {
  header.magic = kMagic;
  header.version = static_cast<std::uint16_t>(kPeerVersion);
  header.checksum = checksum(header);
}

FrameHeader read_frame_header(ConstBytes first, std::uint64_t bytes_left, std::uint64_t term,
                              std::uint32_t sender) {
  if (first.size() < kFrameHeaderBytes || bytes_left < kFrameHeaderBytes)
    throw TransportError("a frame of {} bytes, expected a header of {} at least", bytes_left,
                         kFrameHeaderBytes);
  FrameHeader header;
  std::memcpy(&header, first.data(), kFrameHeaderBytes);
  if (header.magic != kMagic)
    throw TransportError("a frame starts with 0x{:08x}, expected 0x{:08x}", header.magic, kMagic);
  if (header.version != kPeerVersion)
    throw TransportError("a frame of version {}, expected {}", header.version, kPeerVersion);
  if (header.checksum != checksum(header))
    throw TransportError("a frame header with checksum 0x{:016x}, expected 0x{:016x}",
                         header.checksum, checksum(header));
  if (header.term != term)
    throw TransportError("a frame of term 0x{:016x}, expected 0x{:016x}", header.term, term);
  if (header.sender != sender)
    throw TransportError("a frame says that rank {} sent it, expected rank {}", header.sender,
                         sender);
  if (header.length > kMostFrameBytes)
    throw TransportError("a frame with a payload of {} bytes, expected at most {}", header.length,
                         kMostFrameBytes);
  if (header.notices > kMostNotices)
    throw TransportError("a frame with {} notices, expected at most {}", header.notices,
                         kMostNotices);
  const std::uint64_t expected =
      kFrameHeaderBytes + header.notices * sizeof(ReadyNotice) + header.length;
  if (bytes_left < expected)
    throw TransportError("a frame of {} bytes, its header says {}", bytes_left, expected);
  switch (header.kind) {
    case FrameKind::data:
      if (header.offset > header.total || header.length > header.total - header.offset)
        throw TransportError("a frame with bytes {} to {} + {} of a message of {}", header.offset,
                             header.offset, header.length, header.total);
      if (header.length == 0 && header.total != 0)
        throw TransportError("an empty frame of a message of {} bytes", header.total);
      return header;
    case FrameKind::notice:
    case FrameKind::leave:
    case FrameKind::left: {
      const std::size_t most = header.kind == FrameKind::leave ? kMostReasonBytes : 0;
      if (header.length > most)
        throw TransportError("a frame of kind {} with a payload of {} bytes, expected at most {}",
                             static_cast<int>(header.kind), header.length, most);
      if ((header.kind == FrameKind::notice) != (header.notices != 0))
        throw TransportError("a frame of kind {} with {} notices", static_cast<int>(header.kind),
                             header.notices);
      return header;
    }
  }
  throw TransportError("a frame of kind {}, expected 1 to 4", static_cast<int>(header.kind));
}

}  // namespace ballot
