#include "collectives/transport/grpc_credentials.h"

#include <grpcpp/server_builder.h>

#include <utility>
#include <vector>

#include "collectives/transport/grpc_frames.h"
#include "core/error.h"
#include "core/file.h"

namespace ballot {
namespace {

constexpr std::uint64_t kMostPemBytes = 1 << 20;

std::string read_pem(const std::string& path, const char* what, const char* marker) {
  std::string text = read_file(path, kMostPemBytes);
  if (text.find(marker) == std::string::npos)
    throw ConfigError("{} {}: no line \"{}...\" in it, expected a PEM file", what, path, marker);
  return text;
}

// What both sides of a connection set. gRPC's own default for messages is 4 MiB, far above which
// nothing is allowed here either.
std::vector<std::pair<std::string, int>> arguments(const GrpcOptions& options) {
  const auto milliseconds = [](Duration d) {
    return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(d).count());
  };
  const int most = static_cast<int>(2 * kMostFrameBytes + kFrameHeaderBytes);
  return {
      {GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, most},
      {GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, most},
      {GRPC_ARG_KEEPALIVE_TIME_MS, milliseconds(options.keepalive)},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2 * milliseconds(options.keepalive)},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
      {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500},
      {GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0},
      {GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20},
      {GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20},
  };
}

}  // namespace

GrpcCredentials make_credentials(const GrpcOptions& options, const NetworkAddress& rendezvous,
                                 const NetworkAddress& mine) {
  const GrpcTls& tls = options.tls;
  if (!tls.given()) {
    if (!options.insecure && !(rendezvous.loopback() && mine.loopback()))
      throw ConfigError(
          "grpc between {} and the rendezvous {} without TLS: expected a CA, a certificate and a "
          "key "
          "file, or loopback addresses, or the explicit choice insecure = true",
          mine.ip, rendezvous.text());
    return {grpc::InsecureChannelCredentials(), grpc::InsecureServerCredentials()};
  }
  if (tls.ca.empty() || tls.certificate.empty() || tls.key.empty())
    throw ConfigError(
        "TLS with ca = \"{}\", certificate = \"{}\", key = \"{}\": expected all three", tls.ca,
        tls.certificate, tls.key);
  const std::string ca = read_pem(tls.ca, "TLS CA", "-----BEGIN CERTIFICATE");
  const std::string certificate =
      read_pem(tls.certificate, "TLS certificate", "-----BEGIN CERTIFICATE");
  const std::string key = read_pem(tls.key, "TLS key", "-----BEGIN");
  grpc::SslServerCredentialsOptions server(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  server.pem_root_certs = ca;
  server.pem_key_cert_pairs.push_back({key, certificate});
  return {grpc::SslCredentials({ca, key, certificate}), grpc::SslServerCredentials(server)};
}

grpc::ChannelArguments channel_arguments(const GrpcOptions& options) {
  grpc::ChannelArguments channel;
  for (const auto& [name, value] : arguments(options)) channel.SetInt(name, value);
  // A connection for this transport alone, straight to the address, and no copies for retries.
  channel.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  channel.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  channel.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  channel.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  channel.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  channel.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  channel.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // how long one attempt may take
  if (!options.tls.name.empty()) channel.SetSslTargetNameOverride(options.tls.name);
  return channel;
}

void set_server_arguments(const GrpcOptions& options, grpc::ServerBuilder& builder) {
  for (const auto& [name, value] : arguments(options)) builder.AddChannelArgument(name, value);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port that is taken is an error
  // Who has no stream (any more) does not keep a connection.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 2000);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 8);
}

bool same_token(std::string_view one, std::string_view other) {
  unsigned different = one.size() != other.size();
  for (std::size_t i = 0; i < one.size(); ++i) {
    const volatile unsigned char a = static_cast<unsigned char>(one[i]);
    const volatile unsigned char b =
        static_cast<unsigned char>(other.empty() ? '\0' : other[i % other.size()]);
    different |= static_cast<unsigned>(a ^ b);
  }
  return different == 0;
}

}  // namespace ballot
