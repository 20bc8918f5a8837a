#include "collectives/transport/peer_inbox.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace ballot {

void PeerInbox::open(Inbound& inbound) {
  Entry& entry = entries_[inbound.key];
  require(entry.inbound == nullptr && !entry.dropped, "transfer {} of group {} is opened twice",
          inbound.key.second, inbound.key.first);
  entry.inbound = &inbound;
}

void PeerInbox::close(Inbound& inbound) {
  const auto found = entries_.find(inbound.key);
  Entry& entry = found->second;
  for (HeldFrame& frame : entry.held) {
    if (frame.start >= inbound.starts) early_bytes_ -= early_cost(frame.length);
    garbage_.push_back(std::move(frame.payload));
  }
  entry.held.clear();
  if (entry.offset == 0 && entry.start >= inbound.starts) {
    entries_.erase(found);
  } else {
    entry.inbound = nullptr;
    entry.dropped = true;
  }
}

void PeerInbox::start(Inbound& inbound) {
  require(inbound.arrived, "transfer {} is started while it is under way", inbound.key.second);
  for (const HeldFrame& frame : entries_.at(inbound.key).held)
    if (frame.start == inbound.starts) early_bytes_ -= early_cost(frame.length);
  ++inbound.starts;
  inbound.arrived = false;
  inbound.received = 0;
  inbound.part = inbound.part_offset = 0;
}

Inbound* PeerInbox::receive(const FrameHeader& header, FramePayload payload) {
  const TransferKey key{header.group, header.number};
  const auto found = entries_.find(key);
  const Entry none;
  const Entry& before = found == entries_.end() ? none : found->second;
  if (header.start != before.start || header.offset != before.offset ||
      (header.offset != 0 && header.total != before.total))
    throw TransportError(
        "a frame of start {} of transfer {} with byte {} of {}, expected start {} and byte {}",
        header.start, header.number, header.offset, header.total, before.start, before.offset);
  const bool early =
      !before.dropped && (before.inbound == nullptr || header.start >= before.inbound->starts);
  if (early && early_bytes_ + early_cost(header.length) > kMostEarlyBytes)
    throw TransportError(
        "a frame of {} bytes of start {} of transfer {}, which has not been announced as ready, "
        "after {} bytes of such frames, expected at most {} in all",
        header.length, header.start, header.number, early_bytes_, kMostEarlyBytes);

  Entry& entry = found == entries_.end() ? entries_[key] : found->second;
  entry.total = header.total;
  entry.offset += header.length;
  if (entry.offset == entry.total) {
    ++entry.start;
    entry.offset = 0;
  }
  if (entry.dropped) {
    garbage_.push_back(std::move(payload));
    return nullptr;
  }
  if (early) early_bytes_ += early_cost(header.length);
  entry.held.push_back({header.start, header.total, header.length, std::move(payload)});
  return early ? nullptr : entry.inbound;
}

std::optional<HeldFrame> PeerInbox::take(Inbound& inbound) {
  if (inbound.copying || inbound.arrived) return {};
  std::deque<HeldFrame>& held = entries_.at(inbound.key).held;
  while (!held.empty() && held.front().start + 1 == inbound.starts) {
    HeldFrame frame = std::move(held.front());
    held.pop_front();
    if (frame.total == inbound.total) {
      inbound.copying = true;
      return frame;
    }
    inbound.wrong_total = frame.total;
    garbage_.push_back(std::move(frame.payload));
  }
  return {};
}

void PeerInbox::copied(Inbound& inbound, const HeldFrame& frame) {
  inbound.copying = false;
  inbound.received += frame.length;
  inbound.arrived = inbound.received == inbound.total;
}

void copy_frame(Inbound& inbound, const HeldFrame& frame) {
  for (ConstBytes piece : frame.payload.pieces)
    while (!piece.empty()) {
      const Bytes part = inbound.parts[inbound.part].subspan(inbound.part_offset);
      if (part.empty()) {
        ++inbound.part;
        inbound.part_offset = 0;
        continue;
      }
      const std::size_t count = std::min(part.size(), piece.size());
      std::memcpy(part.data(), piece.data(), count);
      inbound.part_offset += count;
      piece = piece.subspan(count);
    }
}

}  // namespace ballot
