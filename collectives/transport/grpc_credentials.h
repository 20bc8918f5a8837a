// How peers trust each other: mutual TLS or plain connections, the job's token, limits of a
// channel.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <string>
#include <string_view>

#include "collectives/transport/grpc_transport.h"
#include "collectives/transport/network_address.h"

namespace grpc {
class ServerBuilder;
}

namespace ballot {

struct GrpcCredentials {
  std::shared_ptr<grpc::ChannelCredentials> dial;
  std::shared_ptr<grpc::ServerCredentials> listen;
};

// ConfigError unless TLS is whole, or `options.insecure`, or both addresses are loopback ones.
GrpcCredentials make_credentials(const GrpcOptions& options, const NetworkAddress& rendezvous,
                                 const NetworkAddress& mine);

// Limits, keepalive and sizes, the same on both sides of a connection.
grpc::ChannelArguments channel_arguments(const GrpcOptions& options);
void set_server_arguments(const GrpcOptions& options, grpc::ServerBuilder& builder);

// Takes the same time wherever they differ.
bool same_token(std::string_view one, std::string_view other);

}  // namespace ballot
