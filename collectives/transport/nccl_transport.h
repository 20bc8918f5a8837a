// Ranks with a GPU each: ballots, verdicts and means go from GPU to GPU by NCCL, everything else
// over the transport it stands on.
//
// That other transport (MPI, gRPC, threads) also tells NCCL's id, and who is lost where it knows:
// NCCL says at most that somebody is. After a loss, and after a wait that passed its deadline, the
// communicator is aborted and the job ends.
#pragma once

#include <memory>

#include "collectives/transport/transport.h"
#include "core/device.h"

namespace ballot {

// Collective over `control`, which must outlive it. All pairs are connected before it returns.
// `device`: of this rank, a GPU that no other
// rank has. Unavailable where there is no NCCL; ConfigError where ranks have different versions or
// one GPU; Timeout when not all have come by the deadline. `call_deadline`: for NCCL to take one
// group of messages, which may have to make connections first.
std::unique_ptr<Transport> make_nccl_transport(Transport& control, Device device, Deadline deadline,
                                               Duration call_deadline = std::chrono::minutes(2));

}  // namespace ballot
