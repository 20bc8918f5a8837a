// The header before each message of a vote or a mean: what it is, whose it is, and a checksum over
// all of it.
//
// 40 bytes, little-endian: magic, version, kind, step, digest of what both sides must agree on,
// sender, chunk, checksum (XXH3 of the header before it, which seeds that of the rest of the first
// part, which seeds that of the next part ..). Nothing of a message is used before check_message()
// has passed. Parts start 8-byte aligned.
#pragma once

#include <bit>
#include <cstdint>

#include "collectives/transport/transport.h"

namespace ballot {

static_assert(std::endian::native == std::endian::little,
              "messages are sent as they lie in memory");

enum class MessageKind : std::uint16_t {
  ballot = 1,
  verdict = 2,
  contribution = 3,
  mean = 4,
  share = 5,      // of a verdict, between the members of a voter or a node
  counts = 6,     // of a node's voters
  agreement = 7,  // of voters with the others
};
const char* to_string(MessageKind kind);

struct MessageHeader {
  std::uint32_t magic = 0;
  std::uint16_t version = 0;
  MessageKind kind = MessageKind::ballot;
  std::int64_t step = 0;
  std::uint64_t digest = 0;
  std::uint32_t sender = 0;
  std::uint32_t chunk = 0;
  std::uint64_t checksum = 0;
};
static_assert(sizeof(MessageHeader) == 40);
inline constexpr std::size_t kHeaderBytes = sizeof(MessageHeader);

// Writes the header into `first`, which is as long as the header at least; the message goes on with
// the rest of `first` and then `rest`. Magic, version and checksum are filled in.
void seal_message(MessageHeader header, Bytes first, std::span<const ConstBytes> rest = {});

// Throws TransportError, naming the sender and the values, unless the message is what `expected`
// says.
void check_message(const MessageHeader& expected, ConstBytes first,
                   std::span<const ConstBytes> rest = {});

}  // namespace ballot
