// Calls of peers that take long: records and checkpoints handed out, each on a thread of its own.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <list>
#include <memory>
#include <thread>

#include "runtime/elastic/grpc_peers_ends.h"
#include "runtime/elastic/grpc_peers_hub.h"

namespace ballot {

class ServingCalls {
 public:
  explicit ServingCalls(std::shared_ptr<PeersHub> hub) : hub_(std::move(hub)) {}
  ~ServingCalls();  // as stop()

  grpc::ServerWriteReactor<grpc::ByteBuffer>* fetch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request);
  grpc::ServerWriteReactor<grpc::ByteBuffer>* checkpoint(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request);
  // Cuts all and waits for their threads, and so for a handler under way.
  void stop();

 private:
  class Call;
  struct Running {
    std::shared_ptr<Call> call;
    bool done = false;
    std::thread thread;
  };
  // Answers with what `serve` writes; its exceptions end the call.
  grpc::ServerWriteReactor<grpc::ByteBuffer>* begin(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
      std::function<grpc::Status(Call& call, ConstBytes request)> serve);

  const std::shared_ptr<PeersHub> hub_;
  std::list<Running> running_;  // guarded by the hub's mutex
  bool stopping_ = false;       // too
};

}  // namespace ballot
