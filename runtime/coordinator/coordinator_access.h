// Who may speak to a coordinator: a secret of the job, mutual TLS, both or neither.
#pragma once

#include <string>

#include "collectives/transport/grpc_transport.h"  // GrpcTls

namespace ballot {

struct CoordinatorAccess {
  // The job's secret (BALLOT_TOKEN); what is sent is derived from it (call_token.h). Never logged.
  std::string secret;
  // Mutual TLS: all three files or none; both sides show a certificate of this authority.
  GrpcTls tls;
  // Listening beyond loopback addresses with neither.
  bool insecure = false;
};

}  // namespace ballot
