// Fetches records from a peer, one fetch at a time, on a thread of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>

#include "runtime/elastic/grpc_peers_hub.h"

namespace ballot {

class FrameReader;

class PeerFetcher {
 public:
  explicit PeerFetcher(std::shared_ptr<PeersHub> hub);
  ~PeerFetcher();  // as stop()

  // Does not wait; takes the place of the fetch under way, of which nothing is told any more.
  void fetch(const Source& source, const Fetch& fetch, Deadline deadline);
  // Cuts it and waits for the thread.
  void stop();

 private:
  struct Wanted {
    Source source;
    Fetch fetch;
    Deadline deadline;
    std::int64_t number = 0;
  };
  void run();
  FetchReply read(const Wanted& wanted);
  void tell(std::int64_t number, std::function<void()> handler);

  const std::shared_ptr<PeersHub> hub_;
  // Guarded by the hub's mutex.
  std::optional<Wanted> wanted_;
  std::int64_t number_ = 0;  // of the newest
  FrameReader* current_ = nullptr;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace ballot
