// What comes from one peer: which frame belongs where, and what waits for a start of ours.
//
// No network and no locks: the mesh calls it under its mutex and does the copying outside. Frames
// come in the order they were sent; each message is checked to go on exactly where it stopped, so a
// lost, repeated or foreign frame is found at once. Frames of starts that are still to come are
// kept, up to kMostEarlyBytes; a peer that sends more without being told that we are ready breaks
// the rules.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "collectives/transport/grpc_frames.h"
#include "collectives/transport/transport.h"

namespace ballot {

using TransferKey = std::pair<std::uint64_t, std::uint64_t>;  // group, number

// A frame's bytes after its header, as they lie in the network's buffers.
struct FramePayload {
  std::vector<ConstBytes> pieces;
  std::shared_ptr<const void> owner;  // keeps them
};

// The messages of one transfer from one peer. Belongs to the transfer; under the mesh's mutex
// except for parts, cursor and the bytes themselves while `copying`.
struct Inbound {
  TransferKey key;
  ReceiveParts parts;
  std::uint64_t total = 0;   // bytes of parts
  std::uint64_t starts = 0;  // how often started
  bool arrived = true;       // what belongs to the latest start
  bool copying = false;      // somebody copies into parts
  std::uint64_t received = 0;
  std::optional<std::uint64_t> wrong_total;  // the peer's message has this size
  std::size_t part = 0, part_offset = 0;     // where the next byte goes
};

struct HeldFrame {
  std::uint64_t start = 0, total = 0;
  std::uint32_t length = 0;
  FramePayload payload;
};

class PeerInbox {
 public:
  void open(Inbound& inbound);
  // Frames of a message that is under way are dropped from now on.
  void close(Inbound& inbound);
  void start(Inbound& inbound);

  // Takes a data frame whose header has been read. Returns for which transfer there may be
  // something to copy now, or null. Throws TransportError when it breaks the rules.
  Inbound* receive(const FrameHeader& header, FramePayload payload);

  // The next frame to copy into `inbound` by copy_frame(), outside the mutex; then copied(). Empty
  // when there is none, or somebody else is at it (who will find it).
  std::optional<HeldFrame> take(Inbound& inbound);
  void copied(Inbound& inbound, const HeldFrame& frame);

  // Payloads that nobody will copy: to be destroyed outside the mutex.
  std::vector<FramePayload> take_garbage() { return std::exchange(garbage_, {}); }

  std::uint64_t early_bytes() const { return early_bytes_; }

 private:
  struct Entry {
    Inbound* inbound = nullptr;  // null: not opened yet, or closed early
    bool dropped = false;        // closed early
    // What the next frame must be.
    std::uint64_t start = 0, offset = 0, total = 0;
    std::deque<HeldFrame> held;
  };
  std::map<TransferKey, Entry> entries_;
  std::vector<FramePayload> garbage_;
  std::uint64_t early_bytes_ = 0;  // kept for starts to come
};

// Scatters the frame's bytes over the parts from where the last one stopped.
void copy_frame(Inbound& inbound, const HeldFrame& frame);

}  // namespace ballot
