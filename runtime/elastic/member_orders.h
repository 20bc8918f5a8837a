// What the first member of a voter tells its others: in an elastic run it alone speaks the failure
// protocol, the others do what it does.
//
// The voter is the unit of failure (R11 of docs/protocol.md): a member that is lost ends the
// voter's part, so these orders need no answer and no term. They are orders of one build to itself
// (checked when the voter starts) and travel as they are. One thread at a time, in the same order
// everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "runtime/protocol/sample_range.h"

namespace ballot {

struct MemberOrder {
  enum class Kind : std::int32_t {
    idle,              // the first member is still there
    cast,              // the ballot of the step after `step`, of `samples`
    apply,             // the record that follows: step `step`
    load_start,        // the starting model
    load,              // the checkpoint whose path follows
    begin_checkpoint,  // of `step`; the voter's share is `share` of `shares`
    look_at_checkpoint,
    evaluate,
    end,
  };
  Kind kind = Kind::idle;
  std::int32_t voter = 0;  // cast, load, begin_checkpoint
  std::int32_t keep_momentum = 0;
  std::int32_t share = 0, shares = 0;
  std::int32_t ended = 0;  // end: the run has, else this voter leaves it
  std::int32_t live = 0;   // apply: a step that the run has just made, not one that is replayed
  std::int32_t reserved = 0;
  std::int64_t number = 0;  // of the checkpoint that is begun or looked at, counted up
  std::int64_t step = 0;
  SampleRange samples = {};
  std::uint64_t bytes = 0;  // of what follows
};

const char* to_string(MemberOrder::Kind kind);

class MemberOrders {
 public:
  // `members`: of this voter alone, the first has rank 0; must outlive it. `most_bytes` may follow
  // an order. An order is waited for `patience` at most.
  MemberOrders(Transport& members, std::uint64_t most_bytes, Duration patience);

  // The first member. Returns when the others' transport has it.
  void tell(MemberOrder order, ConstBytes what_follows = {});
  Duration since_last() const { return system_clock().now() - last_; }

  struct Received {
    MemberOrder order;
    std::vector<std::byte> bytes;
  };
  // The others. PeerLost, Timeout.
  Received take();

 private:
  void send(ConstBytes bytes);
  void receive(Bytes bytes, Deadline deadline);

  Transport& members_;
  const std::uint64_t most_bytes_;
  const Duration patience_;
  TimePoint last_;
};

}  // namespace ballot
