// The pieces that a frame travels in, one gRPC message each.
//
// A piece is a header of 32 bytes and a stretch of one frame. It says which frame of the stream and
// which byte it begins with, and its checksum is over all of it: nothing of a piece is used before
// that holds. The first piece of a frame holds prefix and head alone, so that sending one begins at
// once, whatever its size.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/elastic/peer_frames.h"

namespace ballot {

inline constexpr std::size_t kPieceHeaderBytes = 32;
inline constexpr std::size_t kPieceBytes = std::size_t{1} << 20;      // of a frame, as sent
inline constexpr std::size_t kMostPieceBytes = std::size_t{2} << 20;  // as taken

struct OutgoingPiece {
  std::array<std::byte, kPieceHeaderBytes> header;
  std::vector<ConstBytes> parts;  // as they lie in the frame
  std::uint64_t bytes = 0;        // with the header
};

// One frame into pieces, from front to back.
class PieceCutter {
 public:
  // `number`: how many frames left before it on its stream.
  PieceCutter(OutgoingFrame frame, std::uint64_t number);
  bool done() const { return part_ == frame_.parts.size(); }
  OutgoingPiece next();
  const std::shared_ptr<const void>& owner() const { return frame_.owner; }

 private:
  OutgoingFrame frame_;
  std::uint64_t number_, offset_ = 0;
  std::size_t part_ = 0, part_offset_ = 0;
};

// The frames of one stream out of its messages.
class FrameAssembler {
 public:
  FrameAssembler(std::uint32_t kinds, std::uint64_t most_section_bytes)
      : kinds_(kinds), most_section_bytes_(most_section_bytes) {}

  // The stream's next message, in as many parts as it likes; the frame that ends with it, if one
  // does. TransportError for whatever breaks the rules: then nothing more may be added.
  std::optional<PeerFrame> add(std::span<const ConstBytes> message);
  // Whether nothing of a frame is here that has not ended.
  bool between_frames() const { return offset_ == 0; }

 private:
  class Message;
  std::optional<PeerFrame> take(Message& message);

  const std::uint32_t kinds_;
  const std::uint64_t most_section_bytes_;
  std::uint64_t number_ = 0, offset_ = 0;  // frames before; bytes of this one
  FramePrefix prefix_;
  std::vector<std::byte> head_;
  std::unique_ptr<ArrivingFrame> frame_;
  std::size_t section_ = 0;
  std::uint64_t filled_ = 0;  // bytes of that section
};

}  // namespace ballot
