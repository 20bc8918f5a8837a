// Ranks as MPI processes (Open MPI): persistent point-to-point requests, polled with a pause so
// that ranks that share cores do not spin against each other.
//
// Each part of a message is an MPI message of its own, sent from where it lies; parts above 1 GiB
// travel in pieces. A lost rank ends the job: mpirun kills it, and a wait that
// passes its deadline throws Timeout naming the ranks. MPI may still read the buffers of a transfer
// that was given up: after any error but a Timeout that is waited for again, end the process (the
// session aborts the job while an exception unwinds it).
#pragma once

#include <cstddef>
#include <memory>

#include "collectives/transport/transport.h"

namespace ballot {

// Initializes MPI (thread level serialized) and finalizes it when destroyed. One per process; its
// transports must be gone before it. If it is destroyed during an exception it aborts the job with
// ExitCode::internal, so that no rank waits for a dead one; who catches the exception first calls
// abort() with the error's own code.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  int rank() const;
  int size() const;
  // Collective: all ranks, on a communicator of its own. `piece_bytes` is for tests.
  std::unique_ptr<Transport> world(std::size_t piece_bytes = std::size_t{1} << 30) const;
  // Ends every rank of the job with this exit code; does not return.
  [[noreturn]] void abort(int exit_code) const;

 private:
  int exceptions_;  // in flight when it was made
};

}  // namespace ballot
