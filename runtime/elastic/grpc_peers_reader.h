// One call to a peer whose answer is a stream of frames, read by the calling thread.
//
// gRPC's own threads are few and the whole process's: what may take long has a thread that waits.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <memory>
#include <optional>
#include <string>

#include "core/clock.h"
#include "runtime/elastic/grpc_peers_ends.h"

namespace ballot {

class FrameReader {
 public:
  struct Call {
    const char* method;
    std::string request;
    std::uint32_t kinds;
    std::uint64_t most_section_bytes;
  };
  // Dials. TransportError, FileError.
  FrameReader(std::shared_ptr<PeersHub> hub, const Source& source, const Call& call,
              Deadline deadline);
  ~FrameReader();

  // The next frame; nothing when the peer has ended the stream in order, between frames. Timeout
  // naming the peer, TransportError.
  std::optional<PeerFrame> next();
  // Any thread: next() fails soon.
  void cancel() { context_.TryCancel(); }
  std::uint64_t bytes() const { return bytes_; }  // received

 private:
  const std::shared_ptr<PeersHub> hub_;
  const std::string who_;
  std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext context_;
  FrameAssembler assembler_;
  std::uint64_t bytes_ = 0;
  std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> stream_;
};

}  // namespace ballot
