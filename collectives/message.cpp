#include "collectives/message.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstddef>
#include <cstring>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::uint32_t kMagic = 0x544c4c42;  // "BLLT"
constexpr std::uint16_t kVersion = 2;

std::uint64_t checksum(const MessageHeader& header, ConstBytes first,
                       std::span<const ConstBytes> rest) {
  std::uint64_t sum = XXH3_64bits(&header, offsetof(MessageHeader, checksum));
  sum = XXH3_64bits_withSeed(first.data() + kHeaderBytes, first.size() - kHeaderBytes, sum);
  for (const ConstBytes part : rest) sum = XXH3_64bits_withSeed(part.data(), part.size(), sum);
  return sum;
}

}  // namespace

const char* to_string(MessageKind kind) {
  switch (kind) {
    case MessageKind::ballot:
      return "ballot";
    case MessageKind::verdict:
      return "verdict";
    case MessageKind::contribution:
      return "contribution";
    case MessageKind::mean:
      return "mean";
    case MessageKind::share:
      return "share of a verdict";
    case MessageKind::counts:
      return "counts";
    case MessageKind::agreement:
      return "agreement";
  }
  return "?";
}

void seal_message(MessageHeader header, Bytes first, std::span<const ConstBytes> rest) {
  require(first.size() >= kHeaderBytes, "message of {} bytes, its header alone has {}",
          first.size(), kHeaderBytes);
  header.magic = kMagic;
  header.version = kVersion;
  header.checksum = checksum(header, first, rest);
  std::memcpy(first.data(), &header, kHeaderBytes);
}

void check_message(const MessageHeader& expected, ConstBytes first,
                   std::span<const ConstBytes> rest) {
  const char* what = to_string(expected.kind);
  const std::uint32_t rank = expected.sender;
  if (first.size() < kHeaderBytes)
    throw TransportError("{} from rank {}: {} bytes, its header alone has {}", what, rank,
                         first.size(), kHeaderBytes);
  MessageHeader header;
  std::memcpy(&header, first.data(), kHeaderBytes);
  if (header.magic != kMagic)
    throw TransportError("{} from rank {}: starts with {:#010x}, expected {:#010x}", what, rank,
                         header.magic, kMagic);
  if (header.version != kVersion)
    throw TransportError("{} from rank {}: format version {}, expected {}", what, rank,
                         header.version, kVersion);
  if (const std::uint64_t sum = checksum(header, first, rest); header.checksum != sum)
    throw TransportError(
        "{} from rank {}: its checksum is {:016x}, its bytes give {:016x}: damaged on the way",
        what, rank, header.checksum, sum);
  if (header.kind != expected.kind)
    throw TransportError("{} from rank {}: it is of kind {} ({})", what, rank,
                         static_cast<int>(header.kind), to_string(header.kind));
  if (header.sender != expected.sender)
    throw TransportError("{} from rank {}: it says it is from rank {}", what, rank, header.sender);
  if (header.step != expected.step)
    throw TransportError("{} from rank {}: of step {}, expected step {}", what, rank, header.step,
                         expected.step);
  if (header.digest != expected.digest)
    throw TransportError("{} from rank {}: layout or options {:016x}, expected {:016x}", what, rank,
                         header.digest, expected.digest);
  if (header.chunk != expected.chunk)
    throw TransportError("{} from rank {}: of chunk {}, expected chunk {}", what, rank,
                         header.chunk, expected.chunk);
}

}  // namespace ballot
