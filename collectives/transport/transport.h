// Carries bytes between the workers of one term and does no arithmetic.
//
// A Transport is made for one term and one set of peers and never changes; a new term makes a new
// one. What travels is described once, as a Transfer over fixed buffers, and started as often as
// wanted: memory is registered and requests are made when it is opened, not per step. Every rank
// opens the same transfers in the same order (that numbers them); started they may be in any
// order, as long as each rank starts each of them equally often. Sizes are known on both sides: a
// peer that sends another size than expected is a TransportError that names it. One caller thread
// at a time. What is counted: the bytes handed over for other ranks, by purpose, when a transfer
// starts; the network's own headers (TCP, IP, MPI envelopes, gRPC frames) are not in it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/clock.h"  // Deadline

namespace ballot {

using ConstBytes = std::span<const std::byte>;
using Bytes = std::span<std::byte>;

// One message whose bytes lie in several places, one part after the other; both sides cut it
// equally. No part at all: nothing travels between those two ranks. A part may be empty: an empty
// message travels.
using SendParts = std::vector<ConstBytes>;
using ReceiveParts = std::vector<Bytes>;

// Why bytes travel; counters are kept apart by it.
enum class Purpose { vote, mean, control };
inline constexpr std::size_t kPurposes = 3;
const char* to_string(Purpose purpose);

struct Traffic {
  std::array<std::uint64_t, kPurposes> bytes_sent{};
  std::array<std::uint64_t, kPurposes> bytes_received{};
  std::array<std::uint64_t, kPurposes> messages_sent{};
  std::uint64_t sent(Purpose purpose) const {
    return bytes_sent[static_cast<std::size_t>(purpose)];
  }
  std::uint64_t total_sent() const;
  friend Traffic operator-(const Traffic& later, const Traffic& earlier);
  friend Traffic operator+(const Traffic& one, const Traffic& other);
};

// An all-to-all between fixed buffers. Between start() and the wait() or done() that ends it, what
// is sent must not be changed and what is received not be read. Must be ended before its buffers
// die; the destructor of one under way cancels what it can and otherwise ends its transport.
class Transfer {
 public:
  virtual ~Transfer() = default;
  // Never blocks. Not before the last start has ended.
  virtual void start() = 0;
  // Makes progress, never blocks. True when every peer's bytes have arrived and all sends are over
  // (also before the first start). Throws PeerLost when a peer that is still missing is known to
  // be gone, TransportError on a wrong size.
  virtual bool done() = 0;
  // Returns when done; throws as done() does, and Timeout naming the ranks still missing (may then
  // be waited for again).
  virtual void wait(Deadline deadline) = 0;
  // Which ranks' bytes are in so far (own rank and ranks that send nothing: true). Makes progress;
  // never blocks.
  virtual const std::vector<bool>& arrived() = 0;
};

class Reducer;
class DeviceLink;

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string name() const = 0;  // "loopback", "mpi", "grpc", "nccl"
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // all-to-all, to be started as often as wanted: to[r] goes to rank r, rank r's bytes for us come
  // into from[r]. Entries of the own rank are ignored.
  std::unique_ptr<Transfer> open_exchange(Purpose purpose, std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from);
  // The same, started at once and for this one time.
  std::unique_ptr<Transfer> start_exchange(Purpose purpose, std::span<const SendParts> to,
                                           std::span<const ReceiveParts> from);
  std::unique_ptr<Transfer> start_exchange(Purpose purpose, std::span<const ConstBytes> to,
                                           std::span<const Bytes> from);
  // all-gather: `mine` goes to every other rank, rank r's bytes come into from[r]; from[own rank]
  // is ignored.
  std::unique_ptr<Transfer> start_gather(Purpose purpose, ConstBytes mine,
                                         std::span<const Bytes> from);

  // Sleeps until some transfer may have moved on, at most this long. For those who poll done().
  virtual void idle(Duration at_most) = 0;

  void barrier(Deadline deadline);

  // Collective: the transport of the ranks that give the same color, in rank order. Counters start
  // at zero; the parts may be used by turns with this one (one thread at a time for all of them).
  virtual std::unique_ptr<Transport> split(int color, Deadline deadline) = 0;

  virtual Traffic traffic() const = 0;

  // What this network or its library sums for us; null where it does not.
  virtual Reducer* reducer() { return nullptr; }
  // What reaches from GPU to GPU; null where nothing does.
  virtual DeviceLink* device_link() { return nullptr; }

 protected:
  // Transfers opened for good are numbered 0, 1, ..; those for one time kOnce, kOnce + 1, ..
  // Equal numbers belong together on all ranks.
  static constexpr std::uint64_t kOnce = std::uint64_t{1} << 62;
  virtual std::unique_ptr<Transfer> make_transfer(std::uint64_t number, Purpose purpose,
                                                  std::span<const SendParts> to,
                                                  std::span<const ReceiveParts> from) = 0;
  virtual std::uint64_t take_number(bool once) { return once ? kOnce + once_++ : kept_++; }
  // For a transport that stands on another one: numbers and transfers are the other's.
  static std::uint64_t take_number_of(Transport& other, bool once) {
    return other.take_number(once);
  }
  static std::unique_ptr<Transfer> make_transfer_of(Transport& other, std::uint64_t number,
                                                    Purpose purpose, std::span<const SendParts> to,
                                                    std::span<const ReceiveParts> from) {
    return other.make_transfer(number, purpose, to, from);
  }

 private:
  std::uint64_t kept_ = 0, once_ = 0;
};

// For those who implement a transport.
std::string name_ranks(std::span<const int> ranks);  // "rank 3", "ranks 1, 4"
std::size_t size_bytes(const SendParts& parts);
std::size_t size_bytes(const ReceiveParts& parts);

}  // namespace ballot
