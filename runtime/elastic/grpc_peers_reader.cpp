#include "runtime/elastic/grpc_peers_reader.h"

#include "core/error.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/grpc_ends.h"

namespace ballot {

FrameReader::FrameReader(std::shared_ptr<PeersHub> hub, const Source& source, const Call& call,
                         Deadline deadline)
    : hub_(std::move(hub)),
      who_(fmt::format("worker {} at {}", source.identity.worker, source.address)),
      channel_(dial_peer(source.address, hub_->options)),
      assembler_(call.kinds, call.most_section_bytes) {
  if (deadline.at != TimePoint::max()) {
    const auto left = deadline.at - std::chrono::steady_clock::now();
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::system_clock::duration>(left));
  }
  if (!hub_->token.empty()) context_.AddMetadata(kTokenKey, hub_->token);
  {
    const std::lock_guard lock(hub_->mutex);
    if (hub_->ending) throw TransportError("{}: this worker's connections end", who_);
    hub_->readers.insert(this);
  }
  const grpc::internal::RpcMethod method(call.method, grpc::internal::RpcMethod::SERVER_STREAMING);
  stream_.reset(grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(
      channel_.get(), method, &context_, to_buffer(call.request)));
}

FrameReader::~FrameReader() {
  {
    const std::lock_guard lock(hub_->mutex);
    hub_->readers.erase(this);
    hub_->changed.notify_all();
  }
  context_.TryCancel();
}

std::optional<PeerFrame> FrameReader::next() {
  grpc::ByteBuffer buffer;
  while (stream_->Read(&buffer)) {
    const ReceivedMessage message(buffer);
    bytes_ += message.bytes();
    hub_->received += message.bytes();
    try {
      if (std::optional<PeerFrame> frame = assembler_.add(message.parts())) return frame;
    } catch (const TransportError& error) {
      hub_->refuse_frame(Refusal::malformed, who_, error.what());
      throw TransportError("{}: {}", who_, error.what());
    }
  }
  const grpc::Status status = stream_->Finish();
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
    throw Timeout("{} did not answer in time, after {} bytes", who_, bytes_);
  if (!status.ok()) throw TransportError("{}: {}", who_, describe(status));
  if (!assembler_.between_frames()) {
    hub_->refuse_frame(Refusal::malformed, who_, "an answer that ends within a frame");
    throw TransportError("{}: its answer ends within a frame", who_);
  }
  return std::nullopt;
}

}  // namespace ballot
