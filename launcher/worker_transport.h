// The transport that this process was started for: threads of its own, MPI, or gRPC; and where it
// is asked for, NCCL beside it.
//
// auto: MPI under mpirun, gRPC where RANK and WORLD_SIZE (or Slurm) say that there are others, else
// loopback. gRPC meets at MASTER_ADDR:MASTER_PORT. What is asked for and not there is an error,
// never another one.
#pragma once

#include <functional>
#include <string>

#include "collectives/transport/grpc_transport.h"  // GrpcTls

namespace CLI {
class App;
}

namespace ballot {

struct TransportChoice {
  std::string name = "auto";    // auto, loopback, mpi, grpc, nccl
  std::string device = "cuda";  // nccl: whose memory it reaches
  int workers = 0;              // loopback: ranks, as threads of this process; 0: not given
  int default_workers = 4;      // loopback, where none are given
  // gRPC only. The job's secret is in the environment (BALLOT_TOKEN), where `ps` does not show it.
  GrpcTls tls;
  bool insecure = false;
};

// --transport and what grpc needs; --workers is the caller's to add. nccl only where it `trains`:
// it is no link between hosts that could be measured like the others.
void add_transport_flags(CLI::App& command, TransportChoice& choice, bool trains = false);
void add_workers_flag(CLI::App& command, TransportChoice& choice);

// Runs `body` on every rank of this process (loopback: one thread each) and returns the largest
// exit code. An exception on a rank of MPI ends the whole job with the error's exit code; elsewhere
// it is thrown on. ConfigError or Unavailable before anything starts.
int run_on_transport(const TransportChoice& choice, const std::function<int(Transport&)>& body);

}  // namespace ballot
