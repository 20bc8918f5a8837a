// The header before each frame between two peers of the grpc transport, and what it may say.
//
// 80 bytes, little-endian, as it lies in memory; the notices and the payload follow. One gRPC
// message is one frame or several after each other. A message of a transfer travels as frames in
// order, cut at the sender's frame size. The header has a checksum of its own; payloads have
// Ballot's (collectives/message.h). Frames are untrusted: nothing of one is used before
// read_frame_header() has passed.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "collectives/transport/transport.h"

namespace ballot {

static_assert(std::endian::native == std::endian::little, "frames are sent as they lie in memory");

// Of frames and of proto/peer.proto; workers of another one are refused when they join.
inline constexpr std::uint32_t kPeerVersion = 1;

enum class FrameKind : std::uint16_t {
  data = 1,    // a stretch of a message
  notice = 2,  // nothing but notices
  leave =
      3,     // who sends this needs and sends no more data; the payload says why, if not at the end
  left = 4,  // who sends this has read a leave, and all that was sent before it
};

struct FrameHeader {
  std::uint32_t magic = 0;
  std::uint16_t version = 0;
  FrameKind kind = FrameKind::data;
  std::uint64_t term = 0;     // as rank 0 drew it
  std::uint64_t group = 0;    // 0: all ranks; otherwise a split's
  std::uint64_t number = 0;   // of the transfer within its group
  std::uint64_t start = 0;    // its how many-th start, from 0
  std::uint64_t offset = 0;   // of the payload within the message
  std::uint64_t total = 0;    // bytes of the whole message
  std::uint32_t length = 0;   // bytes of the payload
  std::uint32_t notices = 0;  // ReadyNotices before it
  std::uint32_t sender = 0;   // rank among all
  std::uint32_t reserved = 0;
  std::uint64_t checksum = 0;  // XXH3 of what is before it
};
static_assert(sizeof(FrameHeader) == 80);

// Who sends this has started to receive: start `start` of transfer `number` may be sent in full.
struct ReadyNotice {
  std::uint64_t group = 0;
  std::uint64_t number = 0;
  std::uint64_t start = 0;
};
static_assert(sizeof(ReadyNotice) == 24);

inline constexpr std::size_t kFrameHeaderBytes = sizeof(FrameHeader);
// No frame has a larger payload, whoever cut it. gRPC's own limit is set above it, so that most of
// what is too large is still refused by name.
inline constexpr std::size_t kMostFrameBytes = std::size_t{2} << 20;
inline constexpr std::size_t kMostNotices = 512;      // in one frame
inline constexpr std::size_t kMostReasonBytes = 512;  // of a leave

// What a peer may have sent of starts that its receiver has not announced as ready: bounds what is
// kept for transfers that are opened or started late. A frame costs its payload and a bit.
inline constexpr std::uint64_t kMostEarlyBytes = std::uint64_t{4} << 20;
constexpr std::uint64_t early_cost(std::uint64_t length) {
  return length + 256;
}

// Fills in magic, version and checksum.
void seal_frame_header(FrameHeader& header);

// The header of the frame that begins with `first`, of which `bytes_left` bytes are there. Throws
// TransportError, naming the values, unless it is a whole frame of this term by this sender whose
// fields fit together: what it says of its message is checked by PeerInbox.
FrameHeader read_frame_header(ConstBytes first, std::uint64_t bytes_left, std::uint64_t term,
                              std::uint32_t sender);

}  // namespace ballot
