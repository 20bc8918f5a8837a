// A worker that speaks gRPC but not by the rules: joins as the last rank and sends what it is told.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/sync_stream.h>

#include <memory>
#include <string>
#include <vector>

#include "collectives/transport/grpc_frames.h"
#include "collectives/transport/peer_stream.h"
#include "core/error.h"
#include "proto/peer.grpc.pb.h"

namespace ballot::test {

class RawPeer {
 public:
  using Stream = grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;

  // Joins rank 0 at `rendezvous` and opens a stream to every other rank.
  RawPeer(const std::string& rendezvous, wire::Hello hello) : hello_(std::move(hello)) {
    auto first = channel(rendezvous);
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    hello_.set_address("127.0.0.1:1");
    joined = wire::Peers::NewStub(first)->Join(&context, hello_, &table);
    if (!joined.ok()) return;
    hello_.set_term(table.term());
    for (int rank = 0; rank < hello_.rank(); ++rank)
      open(rank == 0 ? first : channel(table.addresses(rank)));
  }

  // A well-formed header of a data frame of this term by this worker.
  FrameHeader header() const {
    FrameHeader header;
    header.term = table.term();
    header.sender = static_cast<std::uint32_t>(hello_.rank());
    header.number = std::uint64_t{1} << 62;  // the first transfer for one time
    return header;
  }
  bool send(int rank, const std::string& message) {
    const grpc::Slice slice(message);
    return streams[static_cast<std::size_t>(rank)]->Write(grpc::ByteBuffer(&slice, 1));
  }
  bool send(int rank, FrameHeader header, std::size_t payload) {
    seal_frame_header(header);
    return send(rank, std::string(reinterpret_cast<const char*>(&header), sizeof header) +
                          std::string(payload, 'x'));
  }
  // Reads until the other side ends the stream; its reason.
  grpc::Status end_of(int rank) {
    Stream& stream = *streams[static_cast<std::size_t>(rank)];
    grpc::ByteBuffer message;
    while (stream.Read(&message)) {
    }
    return stream.Finish();
  }
  void cancel() {
    for (auto& context : contexts_) context->TryCancel();
  }

  wire::Table table;
  grpc::Status joined;
  std::vector<std::unique_ptr<Stream>> streams;  // by rank

 private:
  static std::shared_ptr<grpc::Channel> channel(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }
  void open(const std::shared_ptr<grpc::Channel>& channel) {
    contexts_.push_back(std::make_unique<grpc::ClientContext>());
    contexts_.back()->AddMetadata(kHelloKey, hello_.SerializeAsString());
    static const grpc::internal::RpcMethod method("/ballot.wire.Peers/Exchange",
                                                  grpc::internal::RpcMethod::BIDI_STREAMING);
    streams.emplace_back(
        grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(
            channel.get(), method, contexts_.back().get()));
    channels_.push_back(channel);
  }

  wire::Hello hello_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts_;
};

}  // namespace ballot::test
