#include "runtime/elastic/peer_frames_pieces.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::uint32_t kMagic = 0x45544c42;  // "BLTE"

struct PieceHeader {
  std::uint32_t magic = kMagic;
  std::uint32_t length = 0;  // of the stretch, a multiple of 8
  std::uint64_t frame = 0;   // of the stream, from 0
  std::uint64_t offset = 0;  // of the stretch within it
  std::uint64_t checksum = 0;
};
static_assert(sizeof(PieceHeader) == kPieceHeaderBytes);

class Checksum {
 public:
  explicit Checksum(const PieceHeader& header) {
    XXH3_64bits_reset(&state_);
    XXH3_64bits_update(&state_, &header, offsetof(PieceHeader, checksum));
  }
  void add(ConstBytes bytes) { XXH3_64bits_update(&state_, bytes.data(), bytes.size()); }
  std::uint64_t value() const { return XXH3_64bits_digest(&state_); }

 private:
  XXH3_state_t state_;
};

}  // namespace

PieceCutter::PieceCutter(OutgoingFrame frame, std::uint64_t number)
    : frame_(std::move(frame)), number_(number) {}

OutgoingPiece PieceCutter::next() {
  OutgoingPiece piece;
  PieceHeader header;
  header.frame = number_;
  header.offset = offset_;
  const std::size_t last = part_ == 0 ? 1 : frame_.parts.size();
  std::size_t room = kPieceBytes;
  while (room > 0 && part_ < last) {
    const ConstBytes rest = frame_.parts[part_].subspan(part_offset_);
    const ConstBytes taken = rest.first(std::min(rest.size(), room));
    if (!taken.empty()) piece.parts.push_back(taken);
    room -= taken.size();
    part_offset_ += taken.size();
    if (taken.size() == rest.size()) ++part_, part_offset_ = 0;
  }
  header.length = static_cast<std::uint32_t>(kPieceBytes - room);
  offset_ += header.length;
  Checksum checksum(header);
  for (const ConstBytes part : piece.parts) checksum.add(part);
  header.checksum = checksum.value();
  std::memcpy(piece.header.data(), &header, sizeof header);
  piece.bytes = sizeof header + header.length;
  return piece;
}

// Bytes in parts, taken from the front.
class FrameAssembler::Message {
 public:
  explicit Message(std::span<const ConstBytes> parts) : parts_(parts) {
    for (const ConstBytes part : parts_) left_ += part.size();
  }
  std::uint64_t left() const { return left_; }
  void copy(std::byte* to, std::uint64_t bytes) {
    left_ -= bytes;
    while (bytes > 0) {
      const ConstBytes rest = parts_[part_].subspan(offset_);
      const std::size_t count =
          static_cast<std::size_t>(std::min<std::uint64_t>(rest.size(), bytes));
      if (count > 0) std::memcpy(to, rest.data(), count);
      to += count;
      bytes -= count;
      offset_ += count;
      if (count == rest.size()) ++part_, offset_ = 0;
    }
  }
  void add_rest(Checksum& checksum) const {
    std::size_t offset = offset_;
    for (std::size_t part = part_; part < parts_.size(); ++part, offset = 0)
      checksum.add(parts_[part].subspan(offset));
  }

 private:
  std::span<const ConstBytes> parts_;
  std::size_t part_ = 0, offset_ = 0;
  std::uint64_t left_ = 0;
};

std::optional<PeerFrame> FrameAssembler::add(std::span<const ConstBytes> parts) {
  Message message(parts);
  if (message.left() < kPieceHeaderBytes)
    throw TransportError("a piece of {} bytes, expected {} or more", message.left(),
                         kPieceHeaderBytes);
  PieceHeader header;
  message.copy(reinterpret_cast<std::byte*>(&header), sizeof header);
  if (header.magic != kMagic)
    throw TransportError("a piece begins with 0x{:08x}, expected 0x{:08x}", header.magic, kMagic);
  if (header.length != message.left() || header.length == 0 || header.length % 8 != 0 ||
      header.length > kMostPieceBytes)
    throw TransportError(
        "a piece says {} bytes and has {}, expected as many, a multiple of 8, 8 to {}",
        header.length, message.left(), kMostPieceBytes);
  Checksum checksum(header);
  message.add_rest(checksum);
  if (header.checksum != checksum.value())
    throw TransportError("a piece with checksum 0x{:016x}, expected 0x{:016x}", header.checksum,
                         checksum.value());
  if (header.frame != number_ || header.offset != offset_)
    throw TransportError("a piece with byte {} of frame {}, expected byte {} of frame {}",
                         header.offset, header.frame, offset_, number_);
  try {
    return take(message);
  } catch (const CorruptFile& error) {
    throw TransportError("frame {}: {}", number_, error.what());
  }
}

std::optional<PeerFrame> FrameAssembler::take(Message& message) {
  if (offset_ == 0) {
    if (message.left() < kPrefixBytes)
      throw TransportError("the first piece of a frame has {} bytes, expected {} or more",
                           message.left(), kPrefixBytes);
    std::array<std::byte, kPrefixBytes> bytes;
    message.copy(bytes.data(), bytes.size());
    prefix_ = read_prefix(bytes, kinds_, most_section_bytes_);
    offset_ = kPrefixBytes;
  }
  if (frame_ == nullptr) {
    const std::size_t before = head_.size();
    const std::uint64_t more = std::min<std::uint64_t>(message.left(), prefix_.head_bytes - before);
    head_.resize(before + static_cast<std::size_t>(more));
    message.copy(head_.data() + before, more);
    offset_ += more;
    if (head_.size() < prefix_.head_bytes) return std::nullopt;
    frame_ = read_head(prefix_, head_);
    head_ = {};
    section_ = 0;
    filled_ = 0;
  }
  std::vector<FrameSection>& sections = frame_->sections();
  while (message.left() > 0) {
    if (section_ == sections.size())
      throw TransportError("{} bytes after the end of frame {}", message.left(), number_);
    const FrameSection& section = sections[section_];
    const std::uint64_t more = std::min(message.left(), section.bytes - filled_);
    message.copy(section.grow(more), more);
    filled_ += more;
    offset_ += more;
    if (filled_ < section.bytes) continue;
    std::array<std::byte, 8> padding{};
    const std::uint64_t padded = (8 - section.bytes % 8) % 8;  // in this piece: all are of 8 bytes
    message.copy(padding.data(), padded);
    if (padding != std::array<std::byte, 8>{})
      throw TransportError("padding of frame {} that is not zero", number_);
    offset_ += padded;
    ++section_;
    filled_ = 0;
  }
  if (section_ < sections.size()) return std::nullopt;
  PeerFrame frame = frame_->finish();
  frame_.reset();
  offset_ = 0;
  ++number_;
  return frame;
}

}  // namespace ballot
