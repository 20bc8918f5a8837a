// The calls of proto/coordinator.proto as gRPC brings them: lets in who shows the token, checks
// what is sent and hands it to the desk. Private to this folder: it brings gRPC's headers.
//
// Messages are taken as raw bytes, so that what is too large or malformed is refused by name and
// counted here; gRPC's own limits lie above. No exception leaves a handler.
#pragma once

#include <memory>
#include <string>

#include "proto/coordinator.grpc.pb.h"
#include "runtime/coordinator/coordinator_desk.h"

namespace ballot {

using CoordinatorService = wire::Coordinator::WithRawCallbackMethod_Join<
    wire::Coordinator::WithRawCallbackMethod_Pulses<wire::Coordinator::WithRawCallbackMethod_Status<
        wire::Coordinator::WithRawCallbackMethod_Expel<wire::Coordinator::Service>>>>;

// All must outlive the server that it is registered at.
std::unique_ptr<CoordinatorService> make_coordinator_service(CoordinatorDesk& desk,
                                                             Refusals& refusals,
                                                             std::string member_token,
                                                             std::string reader_token);

}  // namespace ballot
