// How both ends of the coordinator's connections are set up: credentials, limits, raw messages.
// Private to this folder: it brings gRPC's headers.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>

#include "runtime/coordinator/coordinator_access.h"

namespace grpc {
class ServerBuilder;
}

namespace ballot {

// Before anything else of gRPC's: its complaints go into our log, not too many of them, and its
// threads stay.
void prepare_grpc_process();
// Is called, in place of the log, with what gRPC says of each TLS handshake that fails here.
void on_failed_handshake(std::function<void(const std::string&)> failed);

// ConfigError for TLS that is not whole, FileError for files that cannot be read.
std::shared_ptr<grpc::Channel> make_channel(const std::string& address,
                                            const CoordinatorAccess& access);
std::shared_ptr<grpc::ServerCredentials> make_server_credentials(const CoordinatorAccess& access);
void set_server_limits(grpc::ServerBuilder& builder);

grpc::ByteBuffer to_buffer(const std::string& bytes);
// At most kMostGrpcBytes come through gRPC.
std::string to_bytes(grpc::ByteBuffer& buffer);

// "UNAVAILABLE: ..." for messages; what the other side says is made printable.
std::string describe(const grpc::Status& status);

}  // namespace ballot
