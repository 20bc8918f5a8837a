// The members of one voter at work on one ballot: the mean of their gradients goes to the member
// that works on the tensor, its part of the ballot comes back to all.
//
//   offer(tensor)   this member's gradient is final: it leaves for the tensor's worker
//   advance()       worker: all members' gradients are in -> mean (in the order of members, into
//                   its own gradient) -> `cast` makes the ballot -> it leaves for the others
//                   others: the ballot has come -> `complete`
//   finish()        the same until every tensor is complete here and everything sent has left
//
// A cut tensor has a worker for each part, who gets the gradients of that part only. Its workers
// add up their Gram matrices while they work on it, so each of them waits for the others there:
// one that is still busy elsewhere delays them. That ends: they all take cut tensors in the same
// order, and begin one only when every member has offered it and all before it.
//
// Only bits and gradients travel; momentum stays where the work is, so a voter of G members holds
// it once, not G times. A gradient that does not count (not finite) is left out of the mean; with
// none that counts the tensor abstains. One worker sends (G-1)/G of 4 bytes a voted parameter and
// step to its fellows, and of one bit: the link inside a voter must be a fast one. All on the
// caller's thread; every member offers the same tensors in the same order.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "collectives/ballot.h"
#include "collectives/transport/transport.h"
#include "core/buffer.h"
#include "optim/newton_schulz.h"
#include "runtime/member_plan.h"
#include "runtime/optimizer_state.h"
#include "runtime/part_sums.h"
#include "runtime/step_layout.h"

namespace ballot {

class VoterMembers {
 public:
  // Casts the tensor's ballot from its gradient; `usable` false: it abstains.
  using Cast = std::function<void(ParameterState& state, bool usable)>;
  // The same for this member's part (state.part) of a cut tensor, whose mean is `gradient`.
  using CastPart = std::function<void(ParameterState& state, const Tensor& gradient, bool usable,
                                      GramSum& parts)>;
  // This segment of the ballot is final here.
  using Complete = std::function<void(std::size_t segment)>;

  // Collective over the job's workers: rank r is member r % G of voter r / G. All of these must
  // outlive it. A plan that cuts needs `cast_part`; sums of parts wait `patience` at most.
  VoterMembers(const MemberPlan& plan, OptimizerState& state, const StepLayout& layout,
               Ballot& ballot, Transport& workers, Cast cast, Complete complete, Deadline deadline,
               CastPart cast_part = {}, Duration patience = std::chrono::seconds(600));
  ~VoterMembers();

  int member() const { return members_->rank(); }
  void begin();
  void offer(ParameterState& state, bool counts);
  // Blocks in the sums of a cut tensor only. True when something moved.
  bool advance();
  // Timeout names the members waited for.
  void finish(Deadline deadline);
  // What this worker sent inside its voter so far.
  Traffic traffic() const;
  // In sums of parts since begin(), waiting for other parts included.
  double sum_seconds() const;

 private:
  static constexpr std::size_t kSlots = 2;  // of gradients that arrive while one is worked on

  // A tensor, or a part of a cut one: what one worker works on.
  struct Work {
    ParameterState* state = nullptr;
    std::size_t segment = 0;
    TensorPart part;
    int worker = 0;
    PartSums* sums = nullptr;  // of a cut tensor
    std::unique_ptr<Transfer> gradients, ballots;
    std::vector<std::uint64_t> counts;  // by member
    std::vector<std::uint64_t> silent;  // abstentions, from its first bit
    // Of a part by columns, packed, as it travels: this member's gradient, and the bits.
    Buffer gradient;
    std::vector<std::uint64_t> bits;
    std::size_t slot = 0;  // of the worker's
    bool offered = false, under_way = false, complete = false;
  };
  void plan_work(const MemberPlan& plan, ParameterState& state);
  void plan_sums(const MemberPlan& plan, Duration patience, Deadline deadline);
  void open(Work& work);
  void start_gradients(std::size_t mine);
  void average(Work& work);
  void pack_gradient(Work& work) const;
  // Between the ballot and what travels.
  void take_from_ballot(Work& work) const;
  void put_into_ballot(Work& work) const;
  void finish(Work& work);
  float* own_gradient(const Work& work) const;
  const float* gradient_of(const Work& work, int member) const;
  bool left() const;

  const StepLayout& layout_;
  Ballot& ballot_;
  Cast cast_;
  CastPart cast_part_;
  Complete complete_;
  std::unique_ptr<Transport> members_;
  std::map<std::vector<int>, std::unique_ptr<PartSums>> sums_;  // by who holds the parts
  std::vector<Work> all_;                                       // by segment, then by part
  std::vector<std::size_t> first_;                              // of each segment, and of the end
  std::vector<std::size_t> left_of_;    // parts that are not complete, by segment
  std::vector<std::size_t> mine_;       // of all_: what this member works on, in order
  std::size_t started_ = 0, done_ = 0;  // of mine_
  std::size_t completed_ = 0;           // of all_
  std::int64_t slot_elements_ = 0;
  double sum_seconds_before_ = 0;
  Buffer slots_;
  std::vector<const float*> sources_;
};

}  // namespace ballot
