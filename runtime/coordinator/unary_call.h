// One call with one answer, as raw bytes. Private to this folder: it brings gRPC's headers.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "core/clock.h"

namespace ballot {

struct UnaryAnswer {
  grpc::Status status;
  std::string bytes;  // where the status is OK
};

// `method` with its service: "/ballot.wire.Coordinator/Join". Returns at the deadline at the
// latest.
UnaryAnswer call_unary(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                       const std::string& token, const std::string& request, Deadline deadline);

// Throws what a failed call means for its caller: ConfigError where the coordinator has refused it,
// TransportError where the two do not trust each other's TLS. Returns where trying again may help.
void throw_unless_worth_trying(const grpc::Status& status, const std::string& address);

}  // namespace ballot
