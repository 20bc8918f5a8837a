// A worker's connections to other workers, over gRPC: the links of a term, on which ballots and
// verdicts travel, and calls of their own that hand out records and checkpoints.
//
// A link is one stream from its sender to one peer, opened by a Hello that names the term; the two
// directions of a pair are two links. Frames of a link arrive whole, proved by their checksum, in
// order, and each with the Hello of its link. A link that breaks is opened again while its term
// lasts; a peer that cannot be reached for `link_patience` is lost. Frames to a link that is not
// open go nowhere: WorkerCore says everything that matters again when it opens.
//
// What it costs: a ballot's and a verdict's bits are copied once when they arrive and not when they
// leave. All calls return at once, but download() and those that say so. Any thread may call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "runtime/coordinator/coordinator_access.h"
#include "runtime/protocol/worker_messages.h"

namespace ballot {

// What comes from the network. Called from threads of Peers' own, never with a lock of Peers held
// and never from inside a call of Peers: all but serve() and checkpoint() one after the other from
// one thread, so they must be short; serve() and checkpoint() each from a thread of their own, up
// to eight at once, and may take long. They may wait for a lock under which Peers is called.
//
// Checked before a frame is handed out: its checksums, that its numbers are in their range and fit
// together, that a verdict's and its means' digests are those of their bits. Not checked, since
// only the driver knows the layout: how many words, gradients, tensors there have to be.
struct PeerHandlers {
  // Whether frames of this sender are let in. Asked for each Hello that comes in.
  std::function<LinkAnswer(const Hello&)> answer;
  std::function<void(const Hello& from, BallotFrame)> ballot;
  std::function<void(const Hello& from, VerdictFrame)> verdict;
  // A link of this worker's was accepted: for the first time or again.
  std::function<void(std::int64_t term, const Identity& peer)> link_opened;
  std::function<void(std::int64_t term, const Identity& peer, const std::string& why)> peer_lost;
  // Of the fetch under way. The records are whole, each has the digests of its bits and follows the
  // one before, the first the position that was asked for.
  std::function<void(const Identity& source, FetchReply)> fetched;
  std::function<void(const Identity& source, const std::string& why)> fetch_failed;
  // A peer fetches from here.
  std::function<FetchReply(const Fetch&)> serve;
  // The folder of the newest whole checkpoint here that a peer may copy; empty: none.
  std::function<std::string()> checkpoint;
};

struct PeersOptions {
  std::string run;
  std::string listen;        // "host:port"; port 0: any
  CoordinatorAccess access;  // the same secret and TLS as towards the coordinator
  Duration link_patience = std::chrono::seconds(5);
  Duration hello_pause = std::chrono::milliseconds(20);     // after "not yet"; doubles up to 500 ms
  Duration keepalive = std::chrono::seconds(10);            // of a silent connection
  std::uint64_t most_frame_bytes = std::uint64_t{1} << 40;  // of one ballot or verdict, announced
  std::uint64_t most_reply_bytes = std::uint64_t{1} << 40;  // of the records of one fetch, together
};

// Bytes of payload and of everything, both ways, since it began.
struct PeersTraffic {
  std::uint64_t sent = 0, received = 0;
  std::uint64_t fetched = 0;         // of received: records
  std::uint64_t downloaded = 0;      // of received: checkpoints
  std::uint64_t refused_frames = 0;  // damaged, malformed, too large
  std::uint64_t refused_calls = 0;   // without the token, of another run, too many
};

class Peers {
 public:
  // Bounded: cuts all streams; no handler is called afterwards. Waits for handlers under way, so it
  // must not be destroyed under a lock that they wait for, nor from one of them.
  virtual ~Peers() = default;

  virtual std::string address() const = 0;  // "host:port", where it really listens

  // Opens a link to every other worker of the record; those of an earlier term are closed, in both
  // directions, and so are this worker's own of the same term.
  virtual void open_links(const TermRecord& record, const Identity& me) = 0;
  // Closes all streams of the term, both ways. After it returns at most one frame of them is still
  // handed out: the one that is being handed out already. To wait for it would deadlock, for its
  // handler may wait for the lock under which this is called; and there is no need to: it comes
  // with its Hello, which the state after the close refuses (WorkerCore::fenced).
  // A peer whose link is closed here says Hello again and is answered anew.
  // What was sent before on open links leaves afterwards, for `link_patience` at most.
  virtual void close_links() = 0;

  // To a link that is not open: goes nowhere. At most 16 frames wait on one link: with the next the
  // link is opened anew, which is told by link_opened().
  // `data` belongs to the frame, whose own is null.
  virtual void send(const Identity& to, std::int64_t term, const BallotFrame& frame,
                    std::shared_ptr<const BallotData> data) = 0;
  virtual void send(const Identity& to, std::int64_t term,
                    std::shared_ptr<const VerdictFrame> frame) = 0;

  // One at a time: a new one replaces the one before. Ends in fetched() or fetch_failed().
  virtual void fetch(const Source& source, const Fetch& fetch, Deadline deadline) = 0;

  // Copies the checkpoint that `source` names newest into `folder`, which must not exist: it is
  // there whole and synced, or not at all. Returns the name that it has at the source. Waits, so
  // not under a lock that handlers wait for. TransportError, Timeout, FileError.
  virtual std::string download(const Source& source, const std::string& folder,
                               Deadline deadline) = 0;

  virtual PeersTraffic traffic() const = 0;
};

// ConfigError for an address or TLS files that cannot work; TransportError where it cannot listen.
std::unique_ptr<Peers> make_peers(const PeersOptions& options, PeerHandlers handlers);

}  // namespace ballot
