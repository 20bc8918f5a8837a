// A coordinator that workers and operators reach over gRPC: listens, lets in who may speak, and
// leads the run's terms (docs/coordinator.md).
//
// One thread owns the rules (CoordinatorDesk), one the row; gRPC's own bring the calls. Steps of
// the run wait for none of them. Besides the calls of proto/coordinator.proto it answers gRPC's
// health checks ("" and "ballot.wire.Coordinator": serving while it leads and knows its row) and
// server reflection.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/clock.h"
#include "runtime/coordinator/coordinator_access.h"
#include "runtime/coordinator/coordinator_desk.h"
#include "runtime/coordinator/row_store.h"

namespace ballot {

struct CoordinatorServerOptions {
  DeskOptions desk;
  // "10.0.0.1:29500", "[::1]:29500"; port 0: a free one.
  std::string listen;
  CoordinatorAccess access;
};

class CoordinatorServer {
 public:
  // Listens when this returns. ConfigError for an address that cannot be listened at, or must not
  // be with this access; what the store throws where its row cannot be read.
  CoordinatorServer(CoordinatorServerOptions options, std::unique_ptr<RowStore> store,
                    const Clock& clock = system_clock());
  // As stop(); bounded.
  ~CoordinatorServer();

  // Where it listens: "10.0.0.1:29500".
  const std::string& address() const { return address_; }
  // As the desk's; any thread.
  void status(std::function<void(const ServiceStatus*)> reply) { desk_->status(std::move(reply)); }
  // Tells every caller that the coordinator goes, and why, then ends. Workers go on without it.
  void stop(const std::string& why);
  // Until it has ended; false at the deadline. Throws what ended it, if that was no stop().
  bool wait(Deadline deadline);

 private:
  struct Connections;  // gRPC's
  const CoordinatorServerOptions options_;
  Refusals refusals_;
  std::string address_;
  std::unique_ptr<CoordinatorDesk> desk_;
  std::unique_ptr<Connections> connections_;
};

}  // namespace ballot
