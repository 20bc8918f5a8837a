// The ballot of a voter of several members: each takes gradients of its part of the samples, and
// what leaves the voter is what one worker with all of them would have said.
//
//   voted:     gradient -> the member that works on the tensor -> mean -> momentum, direction ->
//              signs -> every member (voter_members.h)
//   averaged:  gradient -> mean over the members -> the voter's one, clipped contribution
//
// Collective over the members: all begin, report and finish the same step.
#pragma once

#include <memory>
#include <vector>

#include "collectives/mean.h"
#include "collectives/transport/transport.h"
#include "runtime/elastic/voter_ballot.h"
#include "runtime/member_plan.h"
#include "runtime/voter_members.h"

namespace ballot {

class MemberBallotMaker final : public BallotMaker {
 public:
  // Collective. All must outlive it. `patience`: with the other members, in finish().
  MemberBallotMaker(OptimizerState& state, const StepLayout& layout, std::uint64_t seed,
                    const MemberPlan& plan, Transport& members, Duration patience);
  ~MemberBallotMaker() override;

  void begin(std::int64_t step, int voter, VoterBallot& ballot, bool counts = true) override;
  void ready(const Parameter& parameter, Stream& stream) override;
  void finish(const Loss& loss) override;
  // What this member sent inside its voter so far.
  std::uint64_t bytes_sent() const override;

 private:
  struct Averaged {
    ParameterState* state = nullptr;
    std::int64_t offset = 0;  // in the mean's values
    std::size_t segment = 0;
  };
  Averaged& averaged(const ParameterState& state);

  const Duration patience_;
  Transport& members_;
  Stream stream_;
  std::unique_ptr<Ballot> bits_;         // null: nothing is voted on
  std::unique_ptr<VoterMembers> voted_;  // likewise
  std::vector<Averaged> averaged_;
  std::unique_ptr<Mean> mean_;  // null: nothing is averaged
};

}  // namespace ballot
