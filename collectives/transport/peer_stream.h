// One gRPC stream to a peer, dialed or accepted, that carries frames as raw messages.
//
// At most one read and one write are under way at a time; each ends as an event at the completion
// queue. Objects must outlive their events.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>
#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <memory>
#include <string>

#include "proto/peer.grpc.pb.h"

namespace ballot {

using PeerService =
    wire::Peers::WithAsyncMethod_Join<wire::Peers::WithRawMethod_Exchange<wire::Peers::Service>>;

// What happens when an operation has ended; its address is the operation's tag.
struct CompletionEvent {
  std::function<void(bool ok)> run;
};

// Keys of metadata: a wire::Hello of who dials, and what who is dialed answers: how it
// sees the other end.
inline constexpr const char* kHelloKey = "ballot-hello-bin";
inline constexpr const char* kWelcomeKey = "ballot-welcome";

class PeerStream {
 public:
  virtual ~PeerStream() = default;
  virtual void read(grpc::ByteBuffer* message, CompletionEvent* event) = 0;
  virtual void write(const grpc::ByteBuffer& message, CompletionEvent* event) = 0;
  virtual void cancel() = 0;
  // Asks why it ended, after a read has failed; false where only the other side knows.
  virtual bool finish(grpc::Status* status, CompletionEvent* event) = 0;
};

class DialedStream final : public PeerStream {
 public:
  DialedStream(std::shared_ptr<grpc::Channel> channel, const wire::Hello& hello,
               grpc::CompletionQueue& queue, CompletionEvent* opened)
      : channel_(std::move(channel)), stub_(channel_) {
    context_.AddMetadata(kHelloKey, hello.SerializeAsString());
    stream_ = stub_.PrepareCall(&context_, "/ballot.wire.Peers/Exchange", &queue);
    started_.run = [this, opened](bool) { stream_->ReadInitialMetadata(opened); };
  }
  // `opened` comes when the other side has answered; then ask welcome().
  void dial() { stream_->StartCall(&started_); }
  // How the other side sees our end ("ipv4:10.0.0.1:4711"); empty if it has refused.
  std::string welcome() const {
    const auto& metadata = context_.GetServerInitialMetadata();
    const auto found = metadata.find(kWelcomeKey);
    return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
  }

  void read(grpc::ByteBuffer* message, CompletionEvent* event) override {
    stream_->Read(message, event);
  }
  void write(const grpc::ByteBuffer& message, CompletionEvent* event) override {
    stream_->Write(message, event);
  }
  void cancel() override { context_.TryCancel(); }
  bool finish(grpc::Status* status, CompletionEvent* event) override {
    stream_->Finish(status, event);
    return true;
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  CompletionEvent started_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
};

class AcceptedStream final : public PeerStream {
 public:
  AcceptedStream() : stream_(&context_) {}
  // `called` comes when somebody has dialed; until then the rest is not to be used.
  void accept(PeerService& service, grpc::ServerCompletionQueue& queue, CompletionEvent* called) {
    service.RequestExchange(&context_, &stream_, &queue, &queue, called);
  }
  std::string hello() const {
    const auto found = context_.client_metadata().find(kHelloKey);
    return found == context_.client_metadata().end()
               ? ""
               : std::string(found->second.data(), found->second.size());
  }
  std::string who() const { return context_.peer(); }
  void welcome(CompletionEvent* opened) {
    context_.AddInitialMetadata(kWelcomeKey, who());
    stream_.SendInitialMetadata(opened);
  }
  void refuse(const grpc::Status& status, CompletionEvent* refused) {
    stream_.Finish(status, refused);
  }

  void read(grpc::ByteBuffer* message, CompletionEvent* event) override {
    stream_.Read(message, event);
  }
  void write(const grpc::ByteBuffer& message, CompletionEvent* event) override {
    stream_.Write(message, event);
  }
  void cancel() override { context_.TryCancel(); }
  bool finish(grpc::Status*, CompletionEvent*) override { return false; }

 private:
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer> stream_;
};

}  // namespace ballot
