// Votes over a transport, held against the scalar tally and then timed, from ballots packed to
// verdict in hand, beside the all-reduces of floats that they replace, on the same wire in the same
// run.
//
// How each figure comes about is in tests/bench/BENCHMARKS.md. Seconds and bytes everywhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "collectives/vote.h"
#include "launcher/bench_means.h"
#include "launcher/bench_shapes.h"
#include "launcher/link_probe.h"

namespace ballot {

enum class Compare { none, fp32, all };  // all: fp32 and bf16

struct VoteBench {
  BenchShapes shapes;
  std::vector<Schedule> schedules = {Schedule::sharded};
  bool all_schedules = false;  // those that cannot be here are left out, with the reason
  int members = 1;
  int node_size = 1;
  Ties ties = Ties::coin;
  std::int64_t piece_elements = 0;
  int repeats = 10;
  Compare compare = Compare::all;
  int compare_repeats = 3;
  std::int64_t compare_elements =
      0;  // reduce so many of P and scale the time; 0: P, at most 128 Mi
  Duration patience = std::chrono::seconds(120);  // beyond what the bytes need
};

struct VoteResult {
  Schedule schedule = Schedule::sharded;
  std::string left_out;  // why it was not run; else empty
  int voters = 0;
  std::int64_t pieces = 0;
  std::int64_t elements = 0;
  std::int64_t checked = 0;     // elements held against the scalar tally, all ranks together
  std::vector<double> seconds;  // by repeat, the slowest rank's
  double tally = 0;             // within them: the slowest rank's median
  double pack = 0;              // fp32 -> ballot, the slowest rank; apart from the time
  double apply = 0;             // verdict -> parameters, the slowest rank; apart from the time
  std::vector<double> sent, received, formula;  // by rank, a vote: counted, counted, Vote::cost()
  Vote::Cost cost;                              // of the rank that sends most
  double textbook = 0;                          // textbook_bytes()
  double kernel_sent = -1;    // by all ranks of one interface, a vote; -1: not known or shared
  double kernel_counted = 0;  // what those ranks counted themselves
};

struct VoteBenchReport {
  LinkReport link;
  std::vector<VoteResult> votes;
  std::vector<MeanResult> means;
  std::int64_t mean_elements = 0;  // reduced, of P
  int threads = 1;
  // Time to send what the busiest rank sends, or take in what it takes in, at the link's rate.
  double bound(double bytes) const { return link.rate() > 0 ? bytes / link.rate() : 0; }
};

// Collective; the same report on every rank. A verdict that differs from the scalar tally, or from
// another rank's, is a ReplicasDiffer that names the schedule and the rank.
VoteBenchReport bench_vote(Transport& transport, const VoteBench& bench);

// What one worker sends without abstentions and framing: sharded 2 (W-1)/W x P/8 (hold: 3),
// gathered (W-1) x P/8; 0 where it depends on more than these and Vote::cost() says it.
double textbook_bytes(Schedule schedule, Ties ties, std::int64_t elements, int ranks, int members);

}  // namespace ballot
