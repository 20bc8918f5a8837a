// The vote: ballots in, one verdict out, the same bits on every worker whatever the schedule.
//
// What a schedule sends is in README.md's cost table. All of them cut the ballot into pieces (whole
// multiples of 512 elements) that travel and are counted one beside the other; a piece's verdict is
// decided by one owner and copied, or decided alike from the same exact counts. Over a transport
// that reaches from GPU to GPU (its device_link()) pieces travel and are counted there. Ballot and
// verdict lie where they are sent from and received into: their bits are not copied. Buffers,
// messages and requests are made once. See collective.h for threads and order of calls.
#pragma once

#include <cstdint>
#include <memory>

#include "collectives/ballot.h"
#include "collectives/collective.h"
#include "collectives/segment_agreement.h"
#include "collectives/transport/transport.h"
#include "collectives/verdict.h"

namespace ballot {

enum class Schedule {
  sharded,       // all-to-all of chunks, each owner tallies its own, all-gather of verdicts
  gathered,      // all-gather of ballots, everybody tallies everything
  lanes,         // counters in lanes of uint32, summed by the transport's Reducer
  hierarchical,  // counted inside a node first, exact counts between nodes
};
enum class Estimator {
  majority,                // of all voters
  majority_of_majorities,  // of nodes, each of which casts its own majority: other bits, named so
};

struct VoteOptions {
  std::uint64_t seed = 0;
  Ties ties = Ties::coin;
  Schedule schedule = Schedule::sharded;
  Estimator estimator = Estimator::majority;
  // Workers that cast one ballot together: rank r is member r % members of voter r / members. All
  // members hold the same ballot; each sends its share of it (sharded only).
  int members = 1;
  // hierarchical: rank r sits in node r / node_size.
  int node_size = 1;
  std::int64_t piece_elements = 0;  // 0: chosen by size; rounded up to multiples of 512
};

class Vote : public Collective {
 public:
  // Bytes this worker sends per step: ballots and verdicts of real elements (or counts);
  // abstentions and held blocks; headers, statistics and the bits of padding.
  struct Cost {
    std::int64_t ballots = 0, abstentions = 0, framing = 0;
    std::int64_t total() const { return ballots + abstentions + framing; }
  };

  // Valid from the advance() that returned true until the next begin().
  virtual const Verdict& verdict() const = 0;
  virtual Cost cost() const = 0;
  virtual int voters() const = 0;  // of the statistics: nodes, with majority_of_majorities
  // Of the statistics' agreement what this rank has counted itself, tensor by tensor, in all steps
  // since the last forget_counted(): the sum over ranks is everybody's. Costs no message. Both only
  // between steps.
  virtual const SegmentAgreement& counted() const = 0;
  virtual void forget_counted() = 0;
  virtual std::int64_t pieces() const = 0;
  virtual bool all_started() const = 0;  // of this step; for the thread that advances it
  // What this worker sent over transports that the vote made for itself; not in transport()'s own.
  virtual Traffic split_traffic() const { return {}; }
  // What this worker sent for votes so far, over all transports that the schedule uses.
  Traffic traffic();

  // The whole ballot at once, on this thread.
  const Verdict& elect(std::int64_t step, Deadline deadline);
};

// Collective over `transport`; `ballot` and `transport` must outlive it. ConfigError where the
// options do not fit together or the transport lacks what they need. Ranks that disagree on the
// layout (P, shapes), the options or the library version are refused here, with both values.
std::unique_ptr<Vote> make_vote(const Ballot& ballot, Transport& transport, VoteOptions options,
                                Deadline deadline);

// Whether a transport with a DeviceLink carries it.
bool goes_from_gpu_to_gpu(Schedule schedule);

const char* to_string(Schedule schedule);
const char* to_string(Estimator estimator);

}  // namespace ballot
