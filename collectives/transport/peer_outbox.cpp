#include "collectives/transport/peer_outbox.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::size_t kMostEntries = 65'536;  // transfers that the peer may know before we do

}  // namespace

void PeerOutbox::open(Outbound& outbound) {
  Entry& entry = entries_[outbound.key];
  require(entry.outbound == nullptr && !entry.closed, "transfer {} of group {} is opened twice",
          outbound.key.second, outbound.key.first);
  entry.outbound = &outbound;
}

void PeerOutbox::close(Outbound& outbound) {
  const auto found = entries_.find(outbound.key);
  Entry& entry = found->second;
  std::erase(queue_, &outbound);
  outbound.queued = false;
  entry.outbound = nullptr;
  entry.closed = true;
  if (entry.ready >= entry.starts) entries_.erase(found);
}

void PeerOutbox::start(Outbound& outbound) {
  Entry& entry = entries_.at(outbound.key);
  ++outbound.starts;
  outbound.sent = 0;
  outbound.part = outbound.part_offset = 0;
  outbound.queued = true;
  ++entry.starts;
  if (entry.ready < entry.starts) entry.early.push_back(0);
  queue_.push_back(&outbound);
}

void PeerOutbox::announce(const TransferKey& key, std::uint64_t start) {
  notices_.push_back({key.first, key.second, start});
}

void PeerOutbox::ready(const ReadyNotice& notice) {
  const TransferKey key{notice.group, notice.number};
  const auto found = entries_.find(key);
  const std::uint64_t ready = found == entries_.end() ? 0 : found->second.ready;
  const std::uint64_t starts = found == entries_.end() ? 0 : found->second.starts;
  if (notice.start != ready || notice.start > starts)
    throw TransportError("a notice that start {} of transfer {} is ready, expected start {} of {}",
                         notice.start, notice.number, ready, starts + 1);
  if (found == entries_.end() && entries_.size() >= kMostEntries)
    throw TransportError("notices for more than {} transfers that are not opened here",
                         kMostEntries);
  Entry& entry = found == entries_.end() ? entries_[key] : found->second;
  ++entry.ready;
  if (!entry.early.empty()) {
    early_bytes_ -= entry.early.front();
    entry.early.pop_front();
  }
  if (entry.closed && entry.ready >= entry.starts) entries_.erase(found);
}

void PeerOutbox::leave(const std::string& why) {
  leaving_ = true;
  reason_ = why.substr(0, kMostReasonBytes);
}

void PeerOutbox::peer_left() {
  peer_left_ = true;
  std::erase_if(queue_, [&](Outbound* outbound) {
    const Entry& entry = entries_.at(outbound->key);
    if (entry.ready >= entry.starts) return false;
    outbound->queued = false;
    outbound->failed = true;
    return true;
  });
}

void PeerOutbox::fail() {
  for (Outbound* outbound : queue_) {
    outbound->queued = false;
    outbound->failed = true;
  }
  queue_.clear();
  notices_.clear();
}

bool PeerOutbox::may_leave(const Outbound& outbound, const Entry& entry,
                           std::uint64_t length) const {
  return entry.ready >= outbound.starts || early_bytes_ + early_cost(length) <= kMostEarlyBytes;
}

bool PeerOutbox::blocked(const Outbound& outbound) const {
  return outbound.queued &&
         !may_leave(outbound, entries_.at(outbound.key),
                    std::min<std::uint64_t>(frame_bytes_, outbound.total - outbound.sent));
}

void PeerOutbox::add_notices(NextFrame& frame) {
  const auto count = static_cast<std::ptrdiff_t>(std::min(notices_.size(), kMostNotices));
  frame.notices.assign(notices_.begin(), notices_.begin() + count);
  notices_.erase(notices_.begin(), notices_.begin() + count);
  frame.header.notices = static_cast<std::uint32_t>(count);
}

std::optional<NextFrame> PeerOutbox::next() {
  NextFrame frame;
  for (auto at = queue_.begin(); at != queue_.end(); ++at) {
    Outbound& outbound = **at;
    Entry& entry = entries_.at(outbound.key);
    const std::uint64_t length =
        std::min<std::uint64_t>(frame_bytes_, outbound.total - outbound.sent);
    if (!may_leave(outbound, entry, length)) continue;
    if (entry.ready < outbound.starts) {
      early_bytes_ += early_cost(length);
      entry.early.back() += early_cost(length);
    }
    frame.outbound = &outbound;
    frame.header.kind = FrameKind::data;
    frame.header.group = outbound.key.first;
    frame.header.number = outbound.key.second;
    frame.header.start = outbound.starts - 1;
    frame.header.offset = outbound.sent;
    frame.header.total = outbound.total;
    frame.header.length = static_cast<std::uint32_t>(length);
    outbound.sent += length;
    if (outbound.sent == outbound.total) {
      outbound.queued = false;
      queue_.erase(at);
    }
    add_notices(frame);
    return frame;
  }
  if (!notices_.empty()) {
    frame.header.kind = FrameKind::notice;
    add_notices(frame);
    return frame;
  }
  if (leaving_ && !leave_sent_ && queue_.empty()) {
    leave_sent_ = true;
    frame.header.kind = FrameKind::leave;
    frame.header.length = static_cast<std::uint32_t>(reason_.size());
    frame.reason = reason_;
    return frame;
  }
  if (peer_left_ && !left_sent_ && queue_.empty()) {
    left_sent_ = true;
    frame.header.kind = FrameKind::left;
    return frame;
  }
  return {};
}

std::vector<ConstBytes> take_pieces(Outbound& outbound, std::uint64_t length) {
  std::vector<ConstBytes> pieces;
  while (length > 0) {
    const ConstBytes part = outbound.parts[outbound.part].subspan(outbound.part_offset);
    if (part.empty()) {
      ++outbound.part;
      outbound.part_offset = 0;
      continue;
    }
    const std::size_t count = std::min<std::size_t>(part.size(), length);
    pieces.push_back(part.first(count));
    outbound.part_offset += count;
    length -= count;
  }
  return pieces;
}

}  // namespace ballot
