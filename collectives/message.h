// The header before each message of a vote or a mean: what it is, whose it is, and a checksum over
// all of it.
//
// 40 bytes, little-endian: magic, version, kind, step, digest of what both sides must agree on,
// sender, chunk, checksum (XXH3 of the payload, seeded with the XXH3 of the header before it).
// Nothing of a message is used before check_message() has passed. Payloads start 8-byte aligned.
#pragma once

#include <bit>
#include <cstdint>

#include "collectives/transport/transport.h"

namespace ballot {

static_assert(std::endian::native == std::endian::little,
              "messages are sent as they lie in memory");

enum class MessageKind : std::uint16_t { ballot = 1, verdict = 2, contribution = 3, mean = 4 };
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

// Writes the header before the payload that already lies in `message`. Magic, version and checksum
// are filled in.
void seal_message(MessageHeader header, Bytes message);

// Throws TransportError, naming the sender and the values, unless `message` is what `expected`
// says.
void check_message(const MessageHeader& expected, ConstBytes message);

}  // namespace ballot
