// The step behind the gradient: momentum, direction and ballot per tensor as each gradient becomes
// final, then the vote, the mean, and the update.
//
//   ready(p):  gradient -> ballot [voted groups], or contribution [averaged groups]
//              (ballot_caster.h)
//   finish():  ballot -> verdict -> parameters;  contributions -> mean -> (momentum, direction) ->
//   parameters
//
// A tensor's ballot or contribution is released for sending as soon as it is made: where a GPU
// makes it, in the next ready() that finds it has come, or in finish(). With overlap a thread of
// its own sends and counts meanwhile; without, finish() does: the same calls, the same bits. Only
// bits are kept for the whole model, never a whole direction. A tensor whose gradient is not finite
// is left out and counted. If the loss is not finite, every tensor is.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectives/device_mean.h"
#include "collectives/mean.h"
#include "collectives/transport/transport.h"
#include "collectives/vote.h"
#include "core/gradient_sink.h"
#include "runtime/ballot_caster.h"
#include "runtime/communication.h"
#include "runtime/optimizer_state.h"
#include "runtime/step_layout.h"
#include "runtime/step_update.h"
#include "runtime/voter_members.h"

namespace ballot {

struct StepOptions {
  VoteOptions vote;  // its seed is that of the zero coins too
  // Of vote.members > 1: who works on what. Backward and the members' exchange then take turns on
  // one thread, and overlap means that votes go on in between.
  const MemberPlan* plan = nullptr;
  bool choose_schedule = false;  // vote.schedule is chosen by a measurement
  bool overlap = true;
  Duration deadline = std::chrono::seconds(600);
};

// Of one worker and one step; seconds are wall time.
struct StepOutcome {
  std::int64_t gradient_faults = 0;  // tensors left out
  bool loss_fault = false;
  double direction_seconds = 0, pack_seconds = 0, apply_seconds = 0;
  double awaited_seconds = 0;             // for a GPU to make this worker's ballot, in finish()
  double exposed_seconds = 0;             // waited for the network and the counting
  double hidden_seconds = 0;              // of the network and the counting, behind other work
  double tally_seconds = 0;               // counting ballots and adding means, exposed or hidden
  const VoteStatistics* votes = nullptr;  // null: nothing is voted on
};

class StepPipeline : public GradientSink {
 public:
  // All of these must outlive it. Memory is taken here.
  StepPipeline(const ParameterArena& arena, OptimizerState& state, Transport& transport,
               StepOptions options);
  ~StepPipeline() override;
  // Ends its collectives, whatever is under way; of no more use. Before memory of a GPU is given
  // back, which would wait for them.
  void leave();

  // Abstains from every vote and mean until told otherwise; its momentum stands still.
  void abstain_from_now(bool abstains) { caster_.abstain_from_now(abstains); }
  // Called on the step's thread before each change of a parameter or of what its rule remembers.
  void before_change(const BeforeChange& call) {
    caster_.before_change(call);
    update_.before_change(call);
  }
  void begin(std::int64_t step, double rate_factor);
  void loss_known(double mean_loss) override;
  void ready(const Parameter& parameter, Stream& stream) override;
  // After differentiate(). Parameters change only here, when all verdicts and means are in hand.
  StepOutcome finish();

  // Called by finish() when the step is held and before it is applied: what a journal writes down.
  using OnHeld = std::function<void(const StepDecision&, std::span<const TensorFactors>)>;
  void on_held(OnHeld call) { on_held_ = std::move(call); }

  // After finish(): one digest per parameter, in arena order.
  const std::vector<std::uint64_t>& digests() const { return update_.digests(); }
  void parameters_changed() { update_.parameters_changed(); }  // as StepUpdate's
  const StepLayout& layout() const { return layout_; }
  Vote* vote() const { return vote_.get(); }  // null: nothing is voted on
  std::int64_t voted_count() const { return layout_.voted().count(); }
  Schedule schedule() const { return options_.vote.schedule; }
  const std::string& schedule_reason() const { return schedule_reason_; }  // empty: as configured
  Vote::Cost vote_cost() const;
  // What this worker sent over transports that the vote made for itself.
  Traffic split_traffic() const;
  // Gradients and ballots to the other members of this voter so far, by the link inside it.
  std::uint64_t member_bytes_sent() const;

 private:
  void offer(ParameterState& state);
  // Sends what has come of the tensors cast so far, or with `wait` what is to come.
  void release_made(bool wait);
  // The mean of that wire type: of the host, or between GPUs.
  struct Averaged {
    std::unique_ptr<Mean> host;
    std::unique_ptr<DeviceMean> device;
    PinnedBuffer fetched;  // of the device's, for a journal
    Averaging* get() const {
      return host ? static_cast<Averaging*>(host.get()) : static_cast<Averaging*>(device.get());
    }
  };
  Averaged make_mean(std::size_t wire);
  const Averaged& mean_of(const ParameterState& state) const;
  void take_mean(std::size_t wire, StepDecision& decision);

  OptimizerState& state_;
  Transport& transport_;
  StepOptions options_;
  std::string schedule_reason_;

  StepLayout layout_;
  StepUpdate update_;
  BallotCaster caster_;
  Stream stream_;  // of scans for the voter's other members
  OnHeld on_held_;
  std::unique_ptr<Ballot> ballot_;
  std::unique_ptr<Vote> vote_;
  std::array<Averaged, 2> means_;                 // f32, bf16
  std::unique_ptr<Communication> communication_;  // of vote_ and means_: dies before them
  std::unique_ptr<VoterMembers> members_;         // null: this worker is a voter

  std::int64_t step_ = 0;
  double rate_factor_ = 1;
  std::size_t ready_count_ = 0;
  StepOutcome outcome_;
};

}  // namespace ballot
