// The connections of one worker to all others, and the threads that serve them.
//
// A PeerInbox and a PeerOutbox for each peer decide what belongs where and what leaves next; the
// mesh moves the bytes. Its mutex (signal().mutex) guards all of their state and is never held
// while gRPC is called, since gRPC gives back slices of ours, which takes the mutex, from wherever
// it likes.
#pragma once

#include <grpcpp/server.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "collectives/transport/grpc_join.h"
#include "collectives/transport/grpc_transport.h"
#include "collectives/transport/mesh_signal.h"
#include "collectives/transport/peer_inbox.h"
#include "collectives/transport/peer_outbox.h"
#include "collectives/transport/peer_stream.h"

namespace ballot {

struct GrpcCredentials;

enum class PeerState {
  connecting,
  up,
  left,      // in good order: all it sent is here, it needs nothing
  lost,      // its connection ended
  rejected,  // it broke the rules
};

class Mesh {
 public:
  // Connects to all; throws as make_grpc_transport() does.
  explicit Mesh(const GrpcOptions& options);
  // Bounded: says farewell for at most `linger`, then cuts what is left.
  ~Mesh();

  int rank() const { return options_.rank; }
  int size() const { return options_.size; }
  Duration linger() const { return options_.linger; }
  // After a cut gRPC has let go of every slice: at once, or, where a socket could not be found,
  // when the keepalive's time has passed.
  Duration release_time() const { return 2 * options_.keepalive + std::chrono::seconds(10); }
  MeshSignal& signal() { return signal_; }

  // For transfers, with the mutex held. Ranks are those among all.
  PeerInbox& inbox(int peer) { return at(peer).inbox; }
  PeerOutbox& outbox(int peer) { return at(peer).outbox; }
  PeerState state(int peer) const { return at(peer).state; }
  const std::string& address(int peer) const { return at(peer).address; }
  // Of a peer that is gone: why, and when, as compared with others.
  const std::string& why(int peer) const { return at(peer).why; }
  int gone(int peer) const { return at(peer).gone; }
  bool ended() const { return ended_; }
  std::uint64_t rejected_frames() const { return rejected_frames_; }

  // For transfers, with the mutex held, and let go of now and then: copies what has come for
  // `inbound`.
  void copy_held(std::unique_lock<std::mutex>& lock, int peer, Inbound& inbound);
  // For transfers, without the mutex.
  // Lets the next frame leave, unless one is on its way.
  void pump(int peer);
  // Nothing can be started any more: tells the peers that this worker leaves.
  void end();
  // Cuts all connections, so that gRPC lets go of every slice; their sockets as well, since gRPC
  // does not close one while it waits to write to it. Bounded.
  void cut();

 private:
  struct Peer {
    explicit Peer(std::size_t frame_bytes) : outbox(frame_bytes) {}
    int rank = 0;
    std::string address;
    NetworkAddress dialed;  // where, if we did
    PeerState state = PeerState::connecting;
    std::string why;  // it is gone
    int gone = 0;     // its place among those that are
    PeerInbox inbox;
    PeerOutbox outbox;
    std::unique_ptr<PeerStream> stream;
    bool writing = false;
    bool farewell = false;  // it has read everything up to our leave
    int operations = 0;     // gRPC operations under way
    bool over = false;      // no more of them: the stream goes with the last
    ConnectionEnd end;
    CompletionEvent opened, was_read, was_written, finished;
    grpc::ByteBuffer message;     // being read
    std::vector<std::byte> head;  // being written: all but a large payload
    grpc::Status status;
  };
  // A call that came in and is not a peer's yet.
  struct Caller {
    std::unique_ptr<AcceptedStream> stream;
    CompletionEvent called, refused;
  };

  Peer& at(int peer) { return *peers_[static_cast<std::size_t>(peer)]; }
  const Peer& at(int peer) const { return *peers_[static_cast<std::size_t>(peer)]; }

  NetworkAddress listen(const NetworkAddress& rendezvous, const GrpcCredentials& credentials);
  void connect(const wire::Table& table, const GrpcCredentials& credentials, Deadline deadline);
  void dial(Peer& peer, std::shared_ptr<grpc::Channel> channel);
  void take_next_caller();
  void answer(Caller& caller);
  void was_opened(Peer& peer, bool ok);
  void read_next(Peer& peer);
  void was_read(Peer& peer, bool ok);
  void handle_message(Peer& peer);
  void handle_frame(Peer& peer, const FrameHeader& header, std::span<const ReadyNotice> notices,
                    FramePayload payload);
  // Puts the frame behind those in peer.head; a large payload is returned instead, to be lent.
  std::vector<ConstBytes> append(Peer& peer, NextFrame& frame);
  void ask_why(Peer& peer);
  void lose(Peer& peer, PeerState state, const std::string& why);
  void serve();                      // a thread
  bool begin_operation(Peer& peer);  // false once connections are being cut
  void end_operation(Peer& peer);
  void shut_down();

  GrpcOptions options_;
  MeshSignal signal_;
  std::uint64_t term_ = 0;
  NetworkAddress rendezvous_, mine_;
  PeerService service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<JoinDesk> desk_;  // rank 0's
  std::shared_ptr<grpc::Channel> rendezvous_channel_;
  std::vector<std::unique_ptr<Peer>> peers_;  // by rank; the own one is not used
  std::vector<std::unique_ptr<Caller>> callers_;
  std::vector<std::thread> threads_;
  int gone_ = 0;
  std::string first_loss_;
  bool ended_ = false;
  int running_ = 0;  // events being handled
  std::uint64_t rejected_frames_ = 0;
};

}  // namespace ballot
