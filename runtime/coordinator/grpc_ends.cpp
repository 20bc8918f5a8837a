#include "runtime/coordinator/grpc_ends.h"

#include <grpc/support/log.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/server_builder.h>

#include <future>
#include <mutex>
#include <utility>
#include <vector>

#include "collectives/transport/network_address.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "runtime/coordinator/convert.h"

namespace ballot {
namespace {

constexpr std::uint64_t kMostPemBytes = 1 << 20;
// A connection that is silent for so long is asked for a sign of life, which may take as long.
constexpr int kKeepaliveMilliseconds = 10'000;
// Who has no call under way does not keep a connection.
constexpr int kIdleMilliseconds = 60'000;
constexpr int kCallsOfOneConnection = 16;
// What all connections of a server may hold in buffers.
constexpr std::size_t kServerMemoryBytes = std::size_t{512} << 20;

std::mutex hook_mutex;
std::function<void(const std::string&)> hook;

// Whoever makes gRPC complain decides how often: most of it is not written down.
bool is_one_too_many() {
  static constexpr auto kPeriod = std::chrono::seconds(60);
  static constexpr int kLines = 20;
  static TimePoint began{};
  static int lines = 0;
  const TimePoint now = std::chrono::steady_clock::now();
  if (lines == 0 || now - began >= kPeriod) {
    began = now;
    lines = 0;
  }
  return ++lines > kLines;
}

void log_from_grpc(gpr_log_func_args* args) {
  const std::string text = printable(args->message, 1000);
  if (args->severity != GPR_LOG_SEVERITY_ERROR) {
    log_debug("gRPC: {}", text);
    return;
  }
  const std::lock_guard lock(hook_mutex);
  if (hook && text.find("Handshake failed") != std::string::npos)
    hook(text);
  else if (!is_one_too_many())
    log_warning("gRPC: {}", text);
}

std::string read_pem(const std::string& path, const char* what, const char* marker) {
  std::string text = read_file(path, kMostPemBytes);
  if (text.find(marker) == std::string::npos)
    throw ConfigError("{} {}: no line \"{}...\" in it, expected a PEM file", what, path, marker);
  return text;
}

struct Pem {
  std::string ca, key, certificate;
};
Pem read_pems(const GrpcTls& tls) {
  if (tls.ca.empty() || tls.certificate.empty() || tls.key.empty())
    throw ConfigError(
        "TLS with ca = \"{}\", certificate = \"{}\", key = \"{}\": expected all three", tls.ca,
        tls.certificate, tls.key);
  return {read_pem(tls.ca, "TLS CA", "-----BEGIN CERTIFICATE"),
          read_pem(tls.key, "TLS key", "-----BEGIN"),
          read_pem(tls.certificate, "TLS certificate", "-----BEGIN CERTIFICATE")};
}

// The same on both sides.
const std::vector<std::pair<const char*, int>>& arguments() {
  static const std::vector<std::pair<const char*, int>> all = {
      {GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, static_cast<int>(kMostGrpcBytes)},
      {GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, static_cast<int>(kMostGrpcBytes)},
      {GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMilliseconds},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMilliseconds},
      {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500},
  };
  return all;
}

}  // namespace

void prepare_grpc_process() {
  gpr_set_log_function(log_from_grpc);
  // gRPC 1.51 destroys its event engine with the last channel or server and waits for its threads
  // then, up to seconds and, from one of those threads, for ever; the queue and threads of its
  // callbacks go with the last call that used them, and now and then abort when the next one comes
  // at once ("assertion failed: prior > 0"). A channel that is never destroyed and has made one
  // call, cancelled before it starts, keeps all of them.
  static const std::shared_ptr<grpc::Channel>* volatile kept = [] {
    const auto* const channel = new std::shared_ptr<grpc::Channel>(
        grpc::CreateChannel("ipv4:127.0.0.1:1", grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.TryCancel();
    const grpc::ByteBuffer request = to_buffer("");
    grpc::ByteBuffer response;
    std::promise<void> done;
    grpc::GenericStub(*channel).UnaryCall(&context, "/none", {}, &request, &response,
                                          [&](const grpc::Status&) { done.set_value(); });
    done.get_future().wait();
    return channel;
  }();
  (void)kept;
}

void on_failed_handshake(std::function<void(const std::string&)> failed) {
  const std::lock_guard lock(hook_mutex);
  hook = std::move(failed);
}

std::shared_ptr<grpc::Channel> make_channel(const std::string& address,
                                            const CoordinatorAccess& access) {
  const HostPort where = parse_host_port(address, "the coordinator's address");
  const NetworkAddress target = resolve(where);
  grpc::ChannelArguments channel;
  for (const auto& [name, value] : arguments()) channel.SetInt(name, value);
  // A connection of its own, straight to the address; what failed is tried again by us.
  channel.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  channel.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  channel.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  channel.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  channel.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // how long one attempt may take
  if (!access.tls.given())
    return grpc::CreateCustomChannel(target.grpc_target(), grpc::InsecureChannelCredentials(),
                                     channel);
  const Pem pem = read_pems(access.tls);
  const std::string& name = access.tls.name.empty() ? where.host : access.tls.name;
  if (name != target.ip) channel.SetSslTargetNameOverride(name);
  return grpc::CreateCustomChannel(
      target.grpc_target(), grpc::SslCredentials({pem.ca, pem.key, pem.certificate}), channel);
}

std::shared_ptr<grpc::ServerCredentials> make_server_credentials(const CoordinatorAccess& access) {
  if (!access.tls.given()) return grpc::InsecureServerCredentials();
  const Pem pem = read_pems(access.tls);
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = pem.ca;
  options.pem_key_cert_pairs.push_back({pem.key, pem.certificate});
  return grpc::SslServerCredentials(options);
}

void set_server_limits(grpc::ServerBuilder& builder) {
  for (const auto& [name, value] : arguments()) builder.AddChannelArgument(name, value);
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMostGrpcBytes));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port that is taken is an error
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kCallsOfOneConnection);
  // Nobody here compresses; what is small on the wire and large in memory is not taken.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  grpc::ResourceQuota quota("coordinator");
  quota.Resize(kServerMemoryBytes);
  builder.SetResourceQuota(quota);
}

grpc::ByteBuffer to_buffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string to_bytes(grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) throw TransportError("a message that cannot be read");
  std::string bytes;
  bytes.reserve(buffer.Length());
  for (const grpc::Slice& slice : slices)
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

std::string describe(const grpc::Status& status) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const auto code = static_cast<std::size_t>(status.error_code());
  return fmt::format("{}: {}", code < std::size(kNames) ? kNames[code] : "UNKNOWN",
                     printable(status.error_message(), 1000));
}

}  // namespace ballot
