// Both ends of connections between workers: where to listen, whom to trust, raw messages.
// Private to this folder: it brings gRPC's headers.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "collectives/transport/network_address.h"
#include "runtime/elastic/grpc_peers_hub.h"
#include "runtime/elastic/peer_frames_pieces.h"

namespace grpc {
class ServerBuilder;
}

namespace ballot {

inline constexpr const char* kLinkMethod = "/ballot.wire.ElasticPeers/Link";
inline constexpr const char* kFetchMethod = "/ballot.wire.ElasticPeers/Fetch";
inline constexpr const char* kCheckpointMethod = "/ballot.wire.ElasticPeers/Checkpoint";
inline constexpr const char* kLinkHelloKey = "ballot-hello-bin";

// "host:0" as well. ConfigError for what cannot be listened at, or must not be with this access.
NetworkAddress listen_address(const PeersOptions& options);
void set_peer_limits(const PeersOptions& options, grpc::ServerBuilder& builder);
// A new channel: its first call connects at once. Asks the resolver, reads the TLS files:
// ConfigError, FileError, TransportError.
std::shared_ptr<grpc::Channel> dial_peer(const std::string& address, const PeersOptions& options);

// Whether the call shows the run's token; refused and counted otherwise.
std::optional<grpc::Status> why_denied(const grpc::CallbackServerContext& context, PeersHub& hub);

// Large parts are lent: `owner` lives as long as gRPC has them.
grpc::ByteBuffer to_message(const OutgoingPiece& piece, const std::shared_ptr<const void>& owner);

// A message that came in, where gRPC has it.
class ReceivedMessage {
 public:
  explicit ReceivedMessage(grpc::ByteBuffer& buffer);
  std::span<const ConstBytes> parts() const { return parts_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::vector<grpc::Slice> slices_;
  std::vector<ConstBytes> parts_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ballot
