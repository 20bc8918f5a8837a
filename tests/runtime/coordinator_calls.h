// A coordinator on a loopback port, and calls to it as no client of ours would make them.
#pragma once

#include <gtest/gtest.h>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/sync_stream.h>

#include <memory>
#include <optional>
#include <string>

#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/coordinator_client.h"
#include "runtime/coordinator/coordinator_server.h"
#include "runtime/coordinator/unary_call.h"

namespace ballot::test {

class CoordinatorTest : public testing::Test {
 protected:
  CoordinatorTest() {
    options.listen = "127.0.0.1:0";
    options.desk.coordinator.run = "run";
    options.desk.coordinator.membership.heartbeat_timeout = std::chrono::seconds(20);
    options.desk.beat = std::chrono::milliseconds(10);
  }
  void start() { server = std::make_unique<CoordinatorServer>(options, open_memory_store(row)); }
  CoordinatorClientOptions client_options() const {
    CoordinatorClientOptions client;
    client.address = server == nullptr ? options.listen : server->address();
    client.run = "run";
    client.access = options.access;
    client.heartbeat = std::chrono::milliseconds(100);
    client.urgent = std::chrono::milliseconds(10);
    client.first_pause = std::chrono::milliseconds(20);
    client.last_pause = std::chrono::milliseconds(200);
    return client;
  }
  ServiceStatus status() const {
    return fetch_status(server->address(), options.access, std::chrono::seconds(10));
  }
  Row stored() const { return open_memory_store(row)->load(); }

  CoordinatorServerOptions options;
  std::shared_ptr<MemoryRow> row = make_memory_row();
  std::unique_ptr<CoordinatorServer> server;
};

// Where somebody listened a moment ago.
inline std::string free_address() {
  CoordinatorServerOptions options;
  options.listen = "127.0.0.1:0";
  return CoordinatorServer(options, open_memory_store(make_memory_row())).address();
}

inline std::shared_ptr<grpc::Channel> plain_channel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// A stream of pulses on which anything may be sent.
class RawStream {
 public:
  RawStream(const std::string& address, const std::string& token)
      : channel_(plain_channel(address)) {
    if (!token.empty()) context.AddMetadata(kTokenKey, token);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  }
  void open() {
    static const grpc::internal::RpcMethod method("/ballot.wire.Coordinator/Pulses",
                                                  grpc::internal::RpcMethod::BIDI_STREAMING);
    stream_.reset(
        grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(
            channel_.get(), method, &context));
  }
  bool send(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    return stream_->Write(grpc::ByteBuffer(&slice, 1));
  }
  std::optional<std::string> read() {
    grpc::ByteBuffer message;
    if (!stream_->Read(&message)) return std::nullopt;
    std::vector<grpc::Slice> slices;
    if (!message.Dump(&slices).ok()) return std::nullopt;
    std::string bytes;
    for (const grpc::Slice& slice : slices)
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    return bytes;
  }
  // Reads until the other side ends it; why it did.
  grpc::Status end() {
    while (read()) {
    }
    return stream_->Finish();
  }

  grpc::ClientContext context;

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream_;
};

// What grpc.health.v1.Health/Check says of a service (1: serving, 2: not); nothing: not known.
inline std::optional<int> health_of(const std::string& address, const std::string& service) {
  // HealthCheckRequest{service = 1: string}, HealthCheckResponse{status = 1: enum}
  const std::string request =
      service.empty() ? "" : std::string("\x0a") + static_cast<char>(service.size()) + service;
  const UnaryAnswer answer = call_unary(plain_channel(address), "/grpc.health.v1.Health/Check", "",
                                        request, Deadline::in(std::chrono::seconds(10)));
  if (!answer.status.ok() || answer.bytes.size() != 2 || answer.bytes[0] != 0x08)
    return std::nullopt;
  return answer.bytes[1];
}

}  // namespace ballot::test
