// A collective that goes on piece by piece while its input is still being made.
//
// begin(step) -> release(segment) for every segment, as each becomes final -> advance() until it
// returns true. A piece leaves when all its segments are released, so that what backward has
// finished is on the wire while the rest is still computed; while one piece is counted, the next
// travels. Pieces leave in the order of their elements, which is backward's, a few at a time: if
// all left at once they would arrive at once, and the wire would stand still while they are
// counted. begin() and release() belong to the thread that makes the input, advance() to one thread
// that may use the transport; release() may run beside advance(). After any error the transport is
// of no more use.
#pragma once

#include <cstddef>
#include <cstdint>

#include "collectives/transport/transport.h"

namespace ballot {

// Pieces on their way at once. More are needed only where a message's latency is several times what
// its bytes take.
inline constexpr std::size_t kPiecesInFlight = 3;

class Collective {
 public:
  virtual ~Collective() = default;
  virtual std::size_t segments() const = 0;
  virtual void begin(std::int64_t step) = 0;
  virtual void release(std::size_t segment) = 0;
  // Starts what may leave, works on what has come; never blocks on the network. True when the
  // result is whole (and before the first begin()).
  virtual bool advance() = 0;
  // One advance() has moved something: call again at once; otherwise idle on the transport.
  virtual bool moved() const = 0;
  // Not while a step is under way; ranks may differ. At least 1.
  virtual void limit_in_flight(std::size_t pieces) = 0;
  // Something has left and has not come back yet. For the thread that advances it.
  virtual bool under_way() const = 0;
  // Of this step so far, spent on counting or summing and on sealing and checking messages.
  virtual double work_seconds() const = 0;
  // Throws Timeout naming the ranks waited for; call when advance() returned false for too long.
  [[noreturn]] virtual void give_up() = 0;
  virtual Transport& transport() = 0;

  // From released to whole on the caller's thread. Timeout names the ranks waited for.
  void finish(Deadline deadline);
  void release_all();
};

}  // namespace ballot
