// Carries bytes between the workers of one term and does no arithmetic.
//
// A Transport is made for one term and one set of peers and never changes; a new term makes a new
// one. Every peer calls the same collectives in the same order. Starting a transfer never blocks;
// buffers stay untouched (sent) and unread (received) until its wait() returns. Sizes are known on
// both sides: a peer that sends another size than expected is a TransportError that names it. One
// caller thread at a time. What is counted: the bytes handed over for other ranks, by purpose; the
// network's own headers (TCP, IP, MPI envelopes) are not in it.
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
};

// A collective under way. Must be waited for before the buffers given to it die; the destructor of
// one that was not cancels what it can and otherwise terminates its transport.
class Transfer {
 public:
  virtual ~Transfer() = default;
  // Returns when every peer's bytes have arrived and all sends are done; throws Timeout naming the
  // ranks still missing (may then be waited for again), PeerLost when a peer is known to be gone.
  virtual void wait(Deadline deadline) = 0;
  // Which ranks' bytes are in so far (own rank: true). Makes progress; never blocks.
  virtual const std::vector<bool>& arrived() = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string name() const = 0;  // "loopback", "mpi"
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // all-to-all: to[r] goes to rank r, rank r's bytes for us come into from[r]. Entries of the own
  // rank are ignored.
  virtual std::unique_ptr<Transfer> start_exchange(Purpose purpose, std::span<const ConstBytes> to,
                                                   std::span<const Bytes> from) = 0;
  // all-gather: `mine` goes to every other rank, rank r's bytes come into from[r]; from[own rank]
  // is ignored.
  virtual std::unique_ptr<Transfer> start_gather(Purpose purpose, ConstBytes mine,
                                                 std::span<const Bytes> from) = 0;

  virtual void barrier(Deadline deadline) = 0;

  // Collective: the transport of the ranks that give the same color, in rank order. Counters start
  // at zero.
  virtual std::unique_ptr<Transport> split(int color, Deadline deadline) = 0;

  virtual Traffic traffic() const = 0;
};

// For those who implement a transport.
std::string name_ranks(std::span<const int> ranks);  // "rank 3", "ranks 1, 4"
void require_one_span_per_rank(const Transport& transport, std::size_t spans);
// An exchange of empty messages: who has heard from all has passed the barrier, and a Timeout names
// who is missing.
void barrier_by_exchange(Transport& transport, Deadline deadline);

}  // namespace ballot
