// What the parts of Peers over gRPC share: options, handlers, counters, one mutex.
//
// Streams of gRPC's end when gRPC says so, perhaps after Peers are gone: each holds the hub.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "collectives/transport/network_address.h"
#include "runtime/coordinator/refusals.h"
#include "runtime/elastic/grpc_peers_events.h"
#include "runtime/elastic/peers.h"

namespace ballot {

class FrameReader;

struct PeersHub {
  PeersHub(PeersOptions peers_options, PeerHandlers peer_handlers, std::string run_token)
      : options(std::move(peers_options)),
        handlers(std::move(peer_handlers)),
        token(std::move(run_token)) {}

  const PeersOptions options;
  const PeerHandlers handlers;
  const std::string token;  // what calls show; never logged
  Refusals refusals{system_clock()};
  std::atomic<std::uint64_t> sent{0}, received{0}, fetched{0}, downloaded{0};
  std::atomic<std::uint64_t> refused_frames{0}, refused_calls{0};

  std::mutex mutex;
  std::condition_variable changed;
  bool ending = false;
  std::atomic<std::uint16_t> port{0};  // where this worker listens
  std::vector<ConnectionEnd> stuck;    // to be ended: gRPC does not while it waits to write there
  int streams = 0;                     // that this worker opened and gRPC has not ended
  std::set<FrameReader*> readers;      // under way
  PeerEvents events;

  void refuse_frame(Refusal refusal, const std::string& who, const std::string& why) {
    ++refused_frames;
    refusals.add(refusal, who, why);
  }
  void refuse_call(Refusal refusal, const std::string& who, const std::string& why) {
    ++refused_calls;
    refusals.add(refusal, who, why);
  }
};

}  // namespace ballot
