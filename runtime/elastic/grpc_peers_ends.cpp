#include "runtime/elastic/grpc_peers_ends.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>

#include "collectives/transport/grpc_credentials.h"
#include "core/error.h"
#include "core/log.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/grpc_ends.h"

namespace ballot {
namespace {

// Smaller parts are copied: cheaper than lending a slice.
constexpr std::size_t kCopiedBytes = 8192;

// The tuning of the transport between workers: large messages, keepalive, no idle connections.
GrpcOptions as_grpc_options(const PeersOptions& options) {
  GrpcOptions grpc;
  grpc.tls = options.access.tls;
  grpc.insecure = true;  // listen_address() has judged
  grpc.keepalive = options.keepalive;
  return grpc;
}

void give_back(void* owner) {
  delete static_cast<std::shared_ptr<const void>*>(owner);
}

}  // namespace

NetworkAddress listen_address(const PeersOptions& options) {
  const std::string& text = options.listen;
  const bool any_port = text.ends_with(":0");
  HostPort where = parse_host_port(any_port ? text.substr(0, text.size() - 1) + "1" : text,
                                   "the address to listen at for peers");
  if (any_port) where.port = 0;
  const NetworkAddress at = resolve(where);
  const CoordinatorAccess& access = options.access;
  if (at.loopback() || access.tls.given()) return at;
  if (access.secret.empty() && !access.insecure)
    throw ConfigError(
        "listening for peers at {} with neither TLS nor a token: expected a CA, a certificate and "
        "a key, or BALLOT_TOKEN in the environment, or a loopback address, or --insecure",
        at.text());
  log_warning("listening for peers at {} {}", at.text(),
              access.secret.empty() ? "with neither TLS nor a token: whoever reaches it may vote"
                                    : "with a token but without TLS: whoever can listen on the way "
                                      "can show it too");
  return at;
}

void set_peer_limits(const PeersOptions& options, grpc::ServerBuilder& builder) {
  set_server_arguments(as_grpc_options(options), builder);
  // Nobody here compresses; what is small on the wire and large in memory is not taken.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
}

std::shared_ptr<grpc::Channel> dial_peer(const std::string& address, const PeersOptions& options) {
  const HostPort where = parse_host_port(address, "a peer's address");
  const NetworkAddress target = resolve(where);
  const GrpcOptions grpc_options = as_grpc_options(options);
  grpc::ChannelArguments arguments = channel_arguments(grpc_options);
  if (options.access.tls.given() && options.access.tls.name.empty() && where.host != target.ip)
    arguments.SetSslTargetNameOverride(where.host);
  return grpc::CreateCustomChannel(target.grpc_target(),
                                   make_credentials(grpc_options, target, target).dial, arguments);
}

std::optional<grpc::Status> why_denied(const grpc::CallbackServerContext& context, PeersHub& hub) {
  if (hub.token.empty()) return std::nullopt;
  const auto found = context.client_metadata().find(kTokenKey);
  const bool shown = found != context.client_metadata().end();
  if (shown && same_token({found->second.data(), found->second.size()}, hub.token))
    return std::nullopt;
  const char* why = shown ? "the token shown is not the one of this run" : "no token is shown";
  hub.refuse_call(Refusal::token, context.peer(), why);
  return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, why);
}

grpc::ByteBuffer to_message(const OutgoingPiece& piece, const std::shared_ptr<const void>& owner) {
  std::vector<grpc::Slice> slices;
  slices.reserve(1 + piece.parts.size());
  slices.emplace_back(piece.header.data(), piece.header.size());
  for (const ConstBytes part : piece.parts) {
    if (part.size() < kCopiedBytes)
      slices.emplace_back(part.data(), part.size());
    else
      slices.emplace_back(const_cast<std::byte*>(part.data()), part.size(), &give_back,
                          new std::shared_ptr<const void>(owner));
  }
  return {slices.data(), slices.size()};
}

ReceivedMessage::ReceivedMessage(grpc::ByteBuffer& buffer) {
  if (!buffer.Dump(&slices_).ok()) throw TransportError("a message that cannot be read");
  buffer.Clear();
  parts_.reserve(slices_.size());
  for (const grpc::Slice& slice : slices_) {
    parts_.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
    bytes_ += slice.size();
  }
}

}  // namespace ballot
