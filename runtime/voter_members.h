// The members of one voter at work on one ballot: the mean of their gradients goes to the member
// that works on the tensor, its part of the ballot comes back to all.
//
//   offer(tensor)   this member's gradient is final: it leaves for the tensor's worker
//   advance()       worker: all members' gradients are in -> mean (in the order of members, into
//                   its own gradient) -> `cast` makes the ballot -> it leaves for the others
//                   others: the ballot has come -> `complete`
//   finish()        the same until every tensor is complete here and everything sent has left
//
// Only bits and gradients travel; momentum stays where the work is, so a voter of G members holds
// it once, not G times. A gradient that does not count (not finite) is left out of the mean; with
// none that counts the tensor abstains. One worker sends (G-1)/G of 4 bytes a voted parameter and
// step to its fellows, and of one bit: the link inside a voter must be a fast one. All on the
// caller's thread; every member offers the same tensors in the same order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "collectives/ballot.h"
#include "collectives/transport/transport.h"
#include "core/buffer.h"
#include "runtime/member_plan.h"
#include "runtime/optimizer_state.h"
#include "runtime/step_layout.h"

namespace ballot {

class VoterMembers {
 public:
  // Casts the tensor's ballot from its gradient; `usable` false: it abstains.
  using Cast = std::function<void(ParameterState& state, bool usable)>;
  // This segment of the ballot is final here.
  using Complete = std::function<void(std::size_t segment)>;

  // Collective over the job's workers: rank r is member r % G of voter r / G. All of these must
  // outlive it.
  VoterMembers(const MemberPlan& plan, OptimizerState& state, const StepLayout& layout,
               Ballot& ballot, Transport& workers, Cast cast, Complete complete, Deadline deadline);
  ~VoterMembers();

  int member() const { return members_->rank(); }
  void begin();
  void offer(ParameterState& state, bool counts);
  // Never blocks. True when something moved.
  bool advance();
  // Timeout names the members waited for.
  void finish(Deadline deadline);
  // What this worker sent inside its voter so far.
  Traffic traffic() const { return members_->traffic(); }

 private:
  static constexpr std::size_t kSlots = 2;  // of gradients that arrive while one is worked on

  struct Work {
    ParameterState* state = nullptr;
    int worker = 0;
    std::unique_ptr<Transfer> gradients, ballots;
    std::vector<std::uint64_t> counts;  // by member
    std::vector<std::uint64_t> silent;  // abstentions of the segment, from its first bit
    std::size_t slot = 0;               // of the worker's
    bool offered = false, under_way = false, complete = false;
  };
  void open(std::size_t segment);
  void start_gradients(std::size_t mine);
  bool work(std::size_t segment);
  void average(Work& work);
  const float* gradient_of(const Work& work, int member) const;
  bool left() const;

  const StepLayout& layout_;
  Ballot& ballot_;
  Cast cast_;
  Complete complete_;
  std::unique_ptr<Transport> members_;
  std::vector<Work> all_;               // by segment
  std::vector<std::size_t> mine_;       // segments that this member works on, in order
  std::size_t started_ = 0, done_ = 0;  // of mine_
  std::size_t completed_ = 0;           // of all
  std::int64_t slot_elements_ = 0;
  Buffer slots_;
  std::vector<const float*> sources_;
};

}  // namespace ballot
