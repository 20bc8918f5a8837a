// The links that this worker opens: one to each other worker of its term.
//
// A thread dials, waits between tries and loses patience; gRPC's threads write, one piece of each
// link at a time. What is queued belongs to the open stream and goes with it.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/elastic/grpc_peers_hub.h"
#include "runtime/elastic/peer_frames.h"

namespace ballot {

class LinksOut {
 public:
  explicit LinksOut(std::shared_ptr<PeersHub> hub);
  ~LinksOut();  // as stop()

  // None of these waits. What was sent before close() leaves afterwards, for link_patience at most.
  void open(const TermRecord& record, const Identity& me);
  void close();
  void send(const Identity& to, std::int64_t term, OutgoingFrame frame);

  // Cuts all streams and waits for the thread.
  void stop();

 private:
  class Link;
  class Stream;
  void run();
  void end_stuck(std::unique_lock<std::mutex>& lock);

  const std::shared_ptr<PeersHub> hub_;
  std::vector<std::shared_ptr<Link>> links_;  // guarded by the hub's mutex
  std::vector<std::pair<std::shared_ptr<Stream>, TimePoint>> draining_;  // too, and until when
  bool stopping_ = false;                                                // too
  std::thread thread_;
};

}  // namespace ballot
