// The link between the workers as TCP gives it: rates and latency of raw sockets, all pairs, both
// ways, and of all at once, which is the pattern of a vote.
//
// A rate is payload that arrived within a window that begins when TCP is up to speed, the median
// over several windows. Rates in bytes per second, times in seconds. Threads of its own are not
// left behind; the transport only tells addresses and results and keeps step.
#pragma once

#include <string>
#include <vector>

#include "collectives/transport/transport.h"

namespace ballot {

struct LinkOptions {
  bool pairs = true;          // each pair alone; false: latency and all at once only
  int runs = 3;               // windows, of which the median counts
  double ramp_seconds = 0.2;  // before a window
  double run_seconds = 0.4;   // a window
  int pings = 200;            // round trips of one byte
  Duration patience = std::chrono::seconds(20);  // without a byte, then Timeout names the peer
};

struct LinkPair {
  int from = 0, to = 0;
  double one_way = 0;    // from -> to, nothing else on the wire
  double both_ways = 0;  // from -> to while to -> from is as busy
  double round_trip_median = 0, round_trip_p99 = 0;
};

struct LinkReport {
  std::vector<LinkPair> pairs;  // every ordered pair; rates 0 where they were not asked for
  // While every rank sends to all others at once, by rank: what left it and arrived, and what it
  // took in.
  std::vector<double> egress, ingress;
  std::vector<std::string> interfaces;  // by rank, "eth0"; "lo" on one machine
  // The link's rate: the slowest rank's egress with all at once. 0 with one rank.
  double rate() const;
  double round_trip() const;  // the largest of the pairs' medians
};

// Collective; the same report on every rank.
LinkReport measure_link(Transport& transport, const LinkOptions& options = {});

}  // namespace ballot
