// How the ranks of a term find each other: rank 0 keeps a desk, all others join there.
//
// The desk answers when all have joined, so that everyone has the table before anyone dials. Who
// shows another token, version, size or rank than the desk expects is refused and named in rank 0's
// log; a worker whose call ends before the table is complete may join again.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "collectives/transport/grpc_transport.h"
#include "collectives/transport/mesh_signal.h"
#include "collectives/transport/network_address.h"
#include "collectives/transport/peer_stream.h"

namespace ballot {

// Why the worker that says `hello` does not belong to this term, both values named; empty if it
// does.
std::string why_refused(const GrpcOptions& options, const wire::Hello& hello);

wire::Hello make_hello(const GrpcOptions& options);

class JoinDesk {
 public:
  JoinDesk(const GrpcOptions& options, NetworkAddress address, PeerService& service,
           grpc::ServerCompletionQueue& queue, MeshSignal& signal);

  // Takes calls from now on; from the queue's threads.
  void open();
  // Returns the table when all have joined and tells them. Timeout names those missing, to them as
  // well.
  wire::Table wait(Deadline deadline);

 private:
  struct Call {
    grpc::ServerContext context;
    wire::Hello hello;
    grpc::ServerAsyncResponseWriter<wire::Table> responder{&context};
    CompletionEvent arrived, answered, ended;
    int events_left = 2;  // answered and ended
    bool answering = false;
    std::list<Call>::iterator self;
  };
  using Calls = std::list<Call>;

  void take_next_call();
  void check(Call& call);
  void refuse(Call& call, const std::string& why);
  void count_event(Call& call);
  std::string whom_we_wait_for() const;  // with the mutex held

  const GrpcOptions& options_;
  NetworkAddress address_;
  PeerService& service_;
  grpc::ServerCompletionQueue& queue_;
  MeshSignal& signal_;
  wire::Table table_;
  // Under the signal's mutex.
  Calls calls_;
  std::vector<Call*> held_;    // by rank
  std::vector<bool> gave_up_;  // by rank: came and was told that others are missing
  int joined_ = 1;
  bool complete_ = false;
  std::string last_refusal_;
};

// The other side: tells where this worker listens and returns the table.
wire::Table join(const GrpcOptions& options, const NetworkAddress& rendezvous,
                 const NetworkAddress& mine, const std::shared_ptr<grpc::Channel>& channel,
                 Deadline deadline);

}  // namespace ballot
