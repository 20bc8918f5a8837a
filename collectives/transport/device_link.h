// Moves bytes between the memories of GPUs, one for each rank, in the order of a stream: what NCCL
// does, beside a Transport.
//
// Every rank gives the same operations in one and the same order, whatever its timing: nothing
// names an operation but its place. A call returns when the operation is in the stream, which the
// first between two ranks may take a while for; what happens on the wire is seen by an event behind
// it, and a loss by check(). One caller thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "collectives/transport/transport.h"  // Purpose
#include "core/device.h"                      // Device, Stream
#include "core/error.h"                       // Timeout

namespace ballot {

// Device memory that goes to a rank or comes from one; nothing of it is touched where bytes is 0.
struct DeviceMessage {
  int rank = 0;
  std::byte* memory = nullptr;
  std::size_t bytes = 0;
};

class DeviceLink {
 public:
  virtual ~DeviceLink() = default;
  virtual Device device() const = 0;
  // All of these at once, as one operation of the stream. Messages between two ranks match in the
  // order given, and have equal sizes on both sides.
  virtual void exchange(Purpose purpose, std::span<const DeviceMessage> to,
                        std::span<const DeviceMessage> from, Stream& stream) = 0;
  // Every rank's `values` become the sum of all ranks' values modulo 2^32, as one operation of the
  // stream. Counted is what a ring would send.
  virtual void sum(Purpose purpose, std::uint32_t* values, std::int64_t count, Stream& stream) = 0;
  // Throws PeerLost or TransportError once something is known to be broken. Never blocks.
  virtual void check() = 0;
  // What is under way ends unfinished, so that its streams come to an end; of no more use.
  virtual void abort() noexcept = 0;
};

// What a collective on a link does. Where it throws the link is aborted: or what waits for the wire
// (a stream that is ended, memory that is given back) would wait for ever.
template <class Body>
auto or_abort(DeviceLink& link, const Body& body) {
  try {
    return body();
  } catch (...) {
    link.abort();
    throw;
  }
}

// Of a piece that has passed its deadline.
inline Timeout piece_not_back(const Transport& transport, std::size_t piece, std::size_t pieces,
                              const char* collective, std::int64_t step) {
  return Timeout(
      "rank {}: piece {} of {} of the {} of step {} has not come back over {}, which does not say "
      "which of the other {} ranks it waits for",
      transport.rank(), piece, pieces, collective, step, transport.name(), transport.size() - 1);
}

}  // namespace ballot
