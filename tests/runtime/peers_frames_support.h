// Frames as the messages that carry them, and messages that were changed and sealed again.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <string>
#include <vector>

#include "runtime/elastic/peer_frames_pieces.h"

namespace ballot::test {

inline std::vector<std::string> messages_of(const std::vector<OutgoingFrame>& frames) {
  std::vector<std::string> messages;
  std::uint64_t number = 0;
  for (const OutgoingFrame& frame : frames) {
    PieceCutter cutter(frame, number++);
    while (!cutter.done()) {
      const OutgoingPiece piece = cutter.next();
      std::string& message = messages.emplace_back();
      message.append(reinterpret_cast<const char*>(piece.header.data()), piece.header.size());
      for (const ConstBytes part : piece.parts)
        message.append(reinterpret_cast<const char*>(part.data()), part.size());
    }
  }
  return messages;
}

// The same message with its checksum made right again.
inline std::string reseal(std::string message) {
  if (message.size() < kPieceHeaderBytes) return message;
  constexpr std::size_t kChecksumAt = kPieceHeaderBytes - 8;
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, message.data(), kChecksumAt);
  XXH3_64bits_update(&state, message.data() + kPieceHeaderBytes,
                     message.size() - kPieceHeaderBytes);
  const std::uint64_t checksum = XXH3_64bits_digest(&state);
  std::memcpy(message.data() + kChecksumAt, &checksum, sizeof checksum);
  return message;
}

// A message as a piece of so many bytes as it has, at its place in the stream.
inline std::string make_piece(std::string message, std::uint64_t frame, std::uint64_t offset) {
  const std::size_t bytes = message.size() < kPieceHeaderBytes ? 0 : message.size() % 8;
  message.resize(message.size() - bytes);
  if (message.size() < kPieceHeaderBytes) return message;
  const std::uint32_t magic = 0x45544c42;
  const auto length = static_cast<std::uint32_t>(message.size() - kPieceHeaderBytes);
  std::memcpy(message.data(), &magic, sizeof magic);
  std::memcpy(message.data() + 4, &length, sizeof length);
  std::memcpy(message.data() + 8, &frame, sizeof frame);
  std::memcpy(message.data() + 16, &offset, sizeof offset);
  return reseal(std::move(message));
}

}  // namespace ballot::test
