// The sharded vote: all-to-all of chunks, each owner tallies its own, all-gather of verdicts.
//
// One worker sends 2 (W-1)/W x P/8 bytes, plus abstentions (1 bit a block, both ways), a header of
// 40 bytes per message and 40 + 16 W bytes of statistics per verdict. ties = hold adds (W-1)/W x
// P/8: one more bit an element in verdicts. The verdict of a chunk is decided by one owner and
// copied, so all replicas hold the same bits by construction. Buffers are made once. One thread at
// a time.
#pragma once

#include <cstdint>
#include <memory>

#include "collectives/ballot.h"
#include "collectives/transport/transport.h"
#include "collectives/verdict.h"

namespace ballot {

struct VoteOptions {
  std::uint64_t seed = 0;
  Ties ties = Ties::coin;
};

class Vote {
 public:
  // `layout` and `transport` must outlive it; layout, seed and ties must be the same on every rank
  // (a chunk of another size, step or layout is a TransportError naming the rank).
  Vote(const BallotLayout& layout, Transport& transport, VoteOptions options);
  ~Vote();

  // Elects the verdict of `step`; the reference is valid until the next call. Timeout names the
  // ranks waited for. After any error the transport is of no more use. The transport's rank is the
  // voter's number in the statistics.
  const Verdict& elect(const Ballot& ballot, std::int64_t step, Deadline deadline);

  struct Times {
    double exchange = 0;  // seconds: both transfers, packing and unpacking of messages
    double tally = 0;
  };
  Times times() const;  // of the last elect()
  // Bytes this worker sends per step: ballots and verdicts of real elements; abstentions and held
  // blocks; headers, statistics and the bits of padding.
  struct Cost {
    std::int64_t ballots = 0, abstentions = 0, framing = 0;
  };
  Cost cost() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ballot
