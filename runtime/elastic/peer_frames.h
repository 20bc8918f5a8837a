// What workers send each other, as bytes: frames, each of a prefix, a head and sections.
//
// The head is small and holds everything but the numbers; a ballot's and a verdict's bits follow it
// as they lie in memory, so that what leaves is not copied. Everything is little-endian and padded
// with zeros to multiples of 8. A frame travels in pieces (peer_frames_pieces.h), which prove
// themselves by a checksum.
//
//   prefix   u32 kind, u32 bytes of the head, u64 bytes of all sections
//   head     by kind, see peer_frames.cpp
//   sections ballot: bits, abstentions, gradients. verdict: bits, held blocks, held elements, means
//            record: as the journal has it. manifest: its text. file part: its bytes
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "collectives/transport/transport.h"  // ConstBytes
#include "runtime/protocol/worker_messages.h"

namespace ballot {

// Of frames and requests; workers of another one are refused.
inline constexpr std::uint32_t kPeerFramesVersion = 3;

inline constexpr std::size_t kMostHeadBytes = std::size_t{8} << 20;
inline constexpr std::int32_t kMostPeers = 4096;  // numbers of workers, voters, chunks are below
inline constexpr std::size_t kMostMeans = 64;     // of one record
inline constexpr std::size_t kMostNameBytes = 500;
inline constexpr std::size_t kMostFilePartBytes = std::size_t{1} << 20;

// A kind is a bit, so that a set of them is a number.
enum class PeerFrameKind : std::uint32_t {
  ballot = 1,
  verdict = 2,
  reply = 4,
  record = 8,
  manifest = 16,
  file_part = 32,
};
inline constexpr std::uint32_t kLinkKinds = 1 | 2;
inline constexpr std::uint32_t kFetchKinds = 4 | 8;
inline constexpr std::uint32_t kCheckpointKinds = 16 | 32;

// What precedes the records of a fetch.
struct ReplyFrame {
  FetchReply reply;  // without records
  std::uint32_t records = 0;
};
struct RecordFrame {
  std::shared_ptr<const Record> record;  // whole, its digests are its content's
  std::uint64_t bytes = 0;
};
// What precedes the files of a checkpoint.
struct ManifestFrame {
  std::string name;  // of the folder where it comes from
  std::string text;
};
struct FilePartFrame {
  std::uint32_t file = 0;  // as the manifest counts them
  std::uint64_t offset = 0;
  std::vector<std::byte> bytes;
};

using PeerFrame =
    std::variant<BallotFrame, VerdictFrame, ReplyFrame, RecordFrame, ManifestFrame, FilePartFrame>;

// A frame that leaves: parts lie in what `owner` keeps.
struct OutgoingFrame {
  std::shared_ptr<const void> owner;
  std::vector<ConstBytes> parts;  // the first is prefix and head
};

// `data` takes the place of the frame's own. What is given is ours and within the limits
// (LogicError).
OutgoingFrame make_frame(const BallotFrame& frame, std::shared_ptr<const BallotData> data);
OutgoingFrame make_frame(std::shared_ptr<const VerdictFrame> frame);
OutgoingFrame make_frame(const ReplyFrame& frame);
OutgoingFrame make_frame(const Record& record);  // encodes: a copy
OutgoingFrame make_frame(const ManifestFrame& frame);
OutgoingFrame make_frame(FilePartFrame frame);

// --- reading ---------------------------------------------------------------------------------

inline constexpr std::size_t kPrefixBytes = 16;
struct FramePrefix {
  PeerFrameKind kind = PeerFrameKind::ballot;
  std::uint32_t head_bytes = 0;
  std::uint64_t section_bytes = 0;
};
// CorruptFile unless the kind is one of `kinds` and the sizes are multiples of 8 within the limits.
FramePrefix read_prefix(ConstBytes bytes, std::uint32_t kinds, std::uint64_t most_section_bytes);

// Where the bytes of one section go.
struct FrameSection {
  std::uint64_t bytes = 0;  // without padding
  // Makes room for so many more bytes, a multiple of 8 but for the last, and says where.
  std::function<std::byte*(std::uint64_t more)> grow;
};

// A frame whose head has arrived. Memory is taken as sections grow, not as they are announced.
class ArrivingFrame {
 public:
  virtual ~ArrivingFrame() = default;
  std::vector<FrameSection>& sections() { return sections_; }
  // Once all sections are full. CorruptFile where they are not what the head says.
  virtual PeerFrame finish() = 0;

 protected:
  std::vector<FrameSection> sections_;
};
// CorruptFile where the head's values are outside their limits or do not fit together, or its
// sections are not of as many bytes as the prefix says.
std::unique_ptr<ArrivingFrame> read_head(const FramePrefix& prefix, ConstBytes head);

}  // namespace ballot
