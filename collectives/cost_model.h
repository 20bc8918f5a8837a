// What votes and means cost: bytes and messages exactly, work per stage, from which timeline.h
// makes time. Pure functions; no clock, no network.
//
// Every worker does the same, so one worker is modelled: the last rank, whose chunks are never the
// smaller ones. A collective is pieces; a piece goes through stages, one after the other:
//
//   stage = work before (seal, copy) -> bytes on the wire -> work after (check, count)
//
// In numbers, for P voted parameters, W voters of G members, N workers, L = bandwidth of the node's
// link, n workers on a node (the formulas of README.md's table; exact here, chunk by chunk):
//
//   sharded       2 stages of (W-1)/W x P/8 bytes (the second with two planes where ties hold);
//                 tally of P/W elements x W ballots. G > 1: all of it /G, and a third stage of
//                 (G-1)/G x P/8 between the members.
//   gathered      1 stage of (N-1) x P/8 bytes; tally of P elements x N ballots.
//   lanes         1 stage of 2(N-1)/N x P x lane/8 bytes in 2(N-1) hops; no tally.
//   hierarchical  inside a node (n-1)/n x P/8; counts of k = bits(n) digits between nodes
//                 (N/n-1)/(N/n) x P/n x k/8; verdicts back the same way, one bit each.
//   mean          2 stages of (N-1)/N x N_elements x 4 (or 2) bytes.
//
// Bytes that leave a node are those of its n workers together, without what stays inside.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "collectives/pieces.h"
#include "collectives/vote.h"
#include "core/tensor.h"  // DType

namespace ballot {

// A full-duplex link: what one end can send while it receives as much.
struct Link {
  double bandwidth = 0;    // bytes/s of payload, what TCP delivers (ballot bench link)
  double latency = 0;      // s, one way
  double per_message = 0;  // s that the sender is held up by a message besides its bytes
};

struct Cluster {
  int workers = 1;
  int node_size = 1;  // workers that share a node and its link: rank r sits in node r / node_size
  Link link;          // of a node
  Link local;         // of a worker, to the others of its node
};

// How fast one worker does what a collective needs besides the wire.
struct VoteRates {
  double tally_elements = 0;  // elements/s: what an element costs whatever the number of ballots
  double tally_ballots = 0;   // ballots of an element/s, on top
  double checksum = 0;        // bytes/s
  double memory = 0;          // bytes/s read or written
};

struct Work {
  std::int64_t checksum_bytes = 0, memory_bytes = 0;
  std::int64_t tally_elements = 0, tally_ballots = 0;
};
double seconds(const Work& work, const VoteRates& rates);

// What one worker sends in one stage of one piece.
struct Wire {
  std::int64_t remote_bytes = 0, remote_messages = 0;  // to other nodes
  std::int64_t local_bytes = 0, local_messages = 0;    // inside the node
  int hops = 1;                                        // latencies one after the other
};

struct StageCost {
  Work before;
  Wire wire;
  Work after;
};

struct PieceCost {
  PieceRange range;
  std::vector<StageCost> stages;
};

struct CollectiveCost {
  std::vector<std::int64_t> segment_starts;  // what may be released separately; elements
  std::int64_t extent = 0;
  std::vector<PieceCost> pieces;
  StageCost end;  // when the last piece is done; without messages: nothing
  // Sent by the modelled worker: Vote::cost() to the byte (a mean's elements stand under ballots).
  Vote::Cost bytes;
  std::int64_t messages = 0;
  std::int64_t remote_bytes = 0;  // the part that leaves the node
  double bytes_per_node = 0;      // of all workers of a node, to other nodes
};

// ConfigError where the options do not fit the cluster (as make_vote).
CollectiveCost vote_cost(const BallotLayout& layout, const VoteOptions& options,
                         const Cluster& cluster);

// `segments`: lengths in elements, as Mean takes them.
CollectiveCost mean_cost(std::span<const std::int64_t> segments, DType wire,
                         const Cluster& cluster);

// A ring all-reduce that costs nothing but its bytes and hops, and crosses each node's link once:
// 2 (M-1)/M x bytes per node for M nodes (or of one node's workers over its local link).
struct RingCost {
  double bytes_per_node = 0;
  double seconds = 0;
};
RingCost ideal_ring(double bytes, const Cluster& cluster);

struct ScheduleTime {
  Schedule schedule = Schedule::sharded;
  double seconds = 0;  // ballots packed -> verdict in hand
  double bytes_per_node = 0;
};
struct ScheduleChoice {
  Schedule schedule = Schedule::sharded;
  std::string reason;               // one sentence with the numbers
  std::vector<ScheduleTime> times;  // of all candidates, in the order of the enum
};
// The schedule that sends the fewest bytes out of a node among those whose time from packed ballots
// to the verdict is within a tenth, or a millisecond, of the shortest: what saves less is not worth
// bytes that others wait for. All give the same bits.
// Deterministic: with equal inputs every rank chooses the same, so agree on the inputs first.
// `options` says everything but the schedule. Candidates: sharded; gathered and lanes (where the
// transport has a Reducer) for voters of one worker; hierarchical where a node has several workers.
inline constexpr double kWorthBytes = 1.1, kWorthBytesSeconds = 1e-3;
ScheduleChoice choose_schedule(const BallotLayout& layout, const VoteOptions& options,
                               bool has_reducer, const Cluster& cluster, const VoteRates& rates);

// P elements in one segment, for plans that have no model.
BallotLayout flat_layout(std::int64_t elements);

}  // namespace ballot
