// The links that peers open to this worker: each is let in by the handler, then its frames are
// handed out one after the other. A link reads on only when its last frame was handed out, so that
// what waits is bounded by what is in one frame of each.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <map>
#include <memory>

#include "runtime/elastic/grpc_peers_hub.h"

namespace ballot {

class LinksIn : public std::enable_shared_from_this<LinksIn> {
 public:
  explicit LinksIn(std::shared_ptr<PeersHub> hub) : hub_(std::move(hub)) {}

  // A call that has come in.
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* take(
      grpc::CallbackServerContext* context);

  // Neither waits. A frame that is being handed out may still be; no other.
  void close();
  void close_before(std::int64_t term);

 private:
  class Link;
  bool enter(const std::shared_ptr<Link>& link, std::int64_t epoch);
  void left(Link* link);

  const std::shared_ptr<PeersHub> hub_;
  // Guarded by the hub's mutex.
  std::map<std::int32_t, std::shared_ptr<Link>> accepted_;  // by worker
  std::int64_t epoch_ = 0;                                  // of close()
  int calls_ = 0;
};

}  // namespace ballot
