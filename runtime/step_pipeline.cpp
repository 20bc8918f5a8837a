#include "runtime/step_pipeline.h"

#include <cmath>

#include "core/error.h"
#include "optim/direction.h"
#include "runtime/schedule_choice.h"

namespace ballot {

StepPipeline::StepPipeline(const ParameterArena& arena, OptimizerState& state, Transport& transport,
                           StepOptions options)
    : state_(state),
      transport_(transport),
      options_(options),
      layout_(state),
      update_(arena, state, layout_, options.vote.seed, options.vote.ties),
      caster_(state, layout_, options.vote.seed),
      stream_(arena.device()) {
  std::size_t in_flight = kPiecesInFlight;
  if (!layout_.voted().segments().empty()) {
    ballot_ = std::make_unique<Ballot>(layout_.voted());
    if (options.choose_schedule) {
      MeasuredChoice measured = choose_by_measurement(layout_.voted(), options.vote, transport,
                                                      Deadline::in(options.deadline));
      options_.vote.schedule = measured.choice.schedule;
      if (options_.vote.schedule != Schedule::hierarchical) options_.vote.node_size = 1;
      schedule_reason_ = std::move(measured.choice.reason);
      in_flight = measured.pieces_in_flight;
    }
    vote_ = make_vote(*ballot_, transport, options_.vote, Deadline::in(options.deadline));
  }
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    if (!layout_.mean_lengths(i).empty())
      means_[i] = std::make_unique<Mean>(layout_.mean_lengths(i), i == 0 ? DType::f32 : DType::bf16,
                                         transport);
  }
  std::vector<Collective*> collectives;
  if (vote_) collectives.push_back(vote_.get());
  for (const auto& mean : means_)
    if (mean) collectives.push_back(mean.get());
  for (Collective* collective : collectives) collective->limit_in_flight(in_flight);
  communication_ = std::make_unique<Communication>(
      std::move(collectives), options.overlap && transport.size() > 1 && options.plan == nullptr);
  if (options.plan != nullptr && vote_)
    members_ = std::make_unique<VoterMembers>(
        *options.plan, state, layout_, *ballot_, transport,
        [this](ParameterState& s, bool usable) { outcome_.gradient_faults += !cast(s, usable); },
        [this](std::size_t segment) { vote_->release(segment); }, Deadline::in(options.deadline),
        [this](ParameterState& s, const Tensor& gradient, bool usable, GramSum& parts) {
          caster_.cast_part(s, gradient, usable, parts, *ballot_);
        },
        options.deadline);
}

StepPipeline::~StepPipeline() = default;

void StepPipeline::leave() {
  communication_.reset();
  vote_.reset();
}

Vote::Cost StepPipeline::vote_cost() const {
  return vote_ ? vote_->cost() : Vote::Cost{};
}

Traffic StepPipeline::split_traffic() const {
  return vote_ ? vote_->split_traffic() : Traffic{};
}

std::uint64_t StepPipeline::member_bytes_sent() const {
  return members_ ? members_->traffic().total_sent() : 0;
}

void StepPipeline::begin(std::int64_t step, double rate_factor) {
  step_ = step;
  rate_factor_ = rate_factor;
  outcome_ = StepOutcome{};
  ready_count_ = 0;
  caster_.begin(step, transport_.rank() / options_.vote.members);
  communication_->begin(step);
  if (members_) members_->begin();
}

void StepPipeline::loss_known(double mean_loss) {
  outcome_.loss_fault = !std::isfinite(mean_loss);
}

void StepPipeline::ready(const Parameter& parameter) {
  ++ready_count_;
  ParameterState& state = state_.of(parameter);
  if (state.group->reduce == Reduce::vote && members_) {
    offer(state);
  } else if (state.group->reduce == Reduce::vote) {
    outcome_.gradient_faults += !cast(state, !outcome_.loss_fault);
    vote_->release(static_cast<std::size_t>(layout_.place(state).segment));
  } else {
    contribute(state);
    mean_of(state).release(static_cast<std::size_t>(layout_.place(state).mean_segment));
  }
  if (members_ && options_.overlap)
    communication_->poll();
  else
    communication_->wake();
}

void StepPipeline::offer(ParameterState& state) {
  const bool finite =
      !outcome_.loss_fault && scan_gradient(state.parameter->gradient, {}, stream_).finite;
  outcome_.gradient_faults += !finite;
  members_->offer(state, finite && !caster_.abstains());
  members_->advance();
}

bool StepPipeline::cast(ParameterState& state, bool usable) {
  // Members count their own.
  return caster_.cast(state, usable, *ballot_) || members_ != nullptr;
}

void StepPipeline::contribute(ParameterState& state) {
  Mean& mean = mean_of(state);
  const BallotCaster::Contribution made =
      caster_.contribute(state, !outcome_.loss_fault, mean.values());
  mean.contributes()[static_cast<std::size_t>(layout_.place(state).mean_segment)] = made.counts;
  outcome_.gradient_faults += !made.finite;
}

StepOutcome StepPipeline::finish() {
  // A tensor that was never reported would vote with the bits of the step before.
  require(ready_count_ == state_.states().size(), "step {}: {} of {} gradients were reported",
          step_, ready_count_, state_.states().size());
  const Deadline deadline = Deadline::in(options_.deadline);
  Stopwatch members_watch;
  const auto made = [this] { return caster_.times().direction + caster_.times().pack; };
  const double made_before = made();
  if (members_) members_->finish(deadline);
  // What this member computed meanwhile was no waiting.
  const double members_seconds = members_watch.elapsed() - (made() - made_before);
  const Communication::Times times = communication_->finish(deadline);
  const double sum_seconds = members_ ? members_->sum_seconds() : 0;
  outcome_.exposed_seconds = times.exposed + (members_ ? members_seconds + sum_seconds : 0);
  outcome_.hidden_seconds = times.hidden;
  StepDecision decision;
  if (vote_) {
    decision.verdict = &vote_->verdict();
    outcome_.votes = &decision.verdict->statistics;
    outcome_.tally_seconds += vote_->work_seconds();
  }
  for (std::size_t i = 0; i < std::size(means_); ++i) {
    if (!means_[i]) continue;
    decision.means[i] = means_[i]->values();
    decision.contributors[i] = means_[i]->contributors();
    outcome_.tally_seconds += means_[i]->work_seconds();
  }
  const std::vector<TensorFactors>& factors = update_.find_factors(rate_factor_, decision);
  if (on_held_) on_held_(decision, factors);
  update_.apply(step_, decision, factors);
  // With the parts of cut tensors it waited for others, between products.
  outcome_.direction_seconds = caster_.times().direction - sum_seconds + update_.times().direction;
  outcome_.pack_seconds = caster_.times().pack + update_.times().pack;
  outcome_.apply_seconds = update_.times().apply;
  return outcome_;
}

Mean& StepPipeline::mean_of(const ParameterState& state) const {
  return *means_[layout_.place(state).wire];
}

}  // namespace ballot
