// What goes to one peer: which frame is next.
//
// No network and no locks: the mesh calls it under its mutex. Messages leave in the order they were
// started, but one that must wait for its receiver does not hold up those behind it: of a start
// that the peer has not announced as ready, frames may leave while all such bytes stay within
// kMostEarlyBytes, the rest follows the announcement.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "collectives/transport/grpc_frames.h"
#include "collectives/transport/peer_inbox.h"  // TransferKey
#include "collectives/transport/transport.h"

namespace ballot {

struct MeshSignal;

// The messages of one transfer to one peer. Belongs to the transfer; under the mesh's mutex.
struct Outbound {
  TransferKey key;
  SendParts parts;
  std::uint64_t total = 0;
  std::uint64_t starts = 0;
  bool queued = false;                    // frames of the latest start are still to leave
  bool failed = false;                    // they never will: the peer is gone
  std::uint64_t sent = 0;                 // bytes of the latest start given to the network
  std::size_t part = 0, part_offset = 0;  // where the next byte comes from
  int lent = 0;                           // slices of parts that the network still holds
  MeshSignal* signal = nullptr;
  bool over() const { return !queued && !failed && lent == 0; }
};

struct NextFrame {
  FrameHeader header;            // without term and sender, not sealed
  Outbound* outbound = nullptr;  // of a data frame
  std::vector<ReadyNotice> notices;
  std::string reason;  // of a leave
};

class PeerOutbox {
 public:
  explicit PeerOutbox(std::size_t frame_bytes) : frame_bytes_(frame_bytes) {}

  void open(Outbound& outbound);
  // What has not left never will.
  void close(Outbound& outbound);
  void start(Outbound& outbound);

  // We are ready for this start of the peer's.
  void announce(const TransferKey& key, std::uint64_t start);
  // The peer is. Throws TransportError when it cannot be.
  void ready(const ReadyNotice& notice);

  void leave(const std::string& why);
  // The peer has left: what it is not ready for fails, the rest still goes.
  void peer_left();
  // Nothing leaves any more.
  void fail();

  // The next frame, if one may leave now. The caller takes the payload by take_pieces().
  std::optional<NextFrame> next();
  // Whether a message waits for the peer to be ready.
  bool blocked(const Outbound& outbound) const;
  std::uint64_t early_bytes() const { return early_bytes_; }

 private:
  struct Entry {
    Outbound* outbound = nullptr;
    bool closed = false;
    std::uint64_t ready = 0;          // starts the peer has announced
    std::uint64_t starts = 0;         // of ours
    std::deque<std::uint64_t> early;  // cost of what left of starts ready, ready + 1, .. starts - 1
  };
  void add_notices(NextFrame& frame);
  bool may_leave(const Outbound& outbound, const Entry& entry, std::uint64_t length) const;

  std::size_t frame_bytes_;
  std::map<TransferKey, Entry> entries_;
  std::deque<Outbound*> queue_;
  std::deque<ReadyNotice> notices_;
  std::uint64_t early_bytes_ = 0;
  std::string reason_;
  bool leaving_ = false, leave_sent_ = false;
  bool peer_left_ = false, left_sent_ = false;
};

// The next `length` bytes of the message, as they lie in its parts.
std::vector<ConstBytes> take_pieces(Outbound& outbound, std::uint64_t length);

}  // namespace ballot
