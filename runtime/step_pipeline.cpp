#include "runtime/step_pipeline.h"

#include <cmath>

#include "core/copy.h"
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
    // Where GPUs exchange ballots nobody reads them on the host.
    ballot_ = std::make_unique<Ballot>(layout_.voted(), arena.device(),
                                       transport.device_link() == nullptr);
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
  for (std::size_t wire = 0; wire < means_.size(); ++wire)
    if (!layout_.mean_lengths(wire).empty()) means_[wire] = make_mean(wire);
  std::vector<Collective*> collectives;
  if (vote_) collectives.push_back(vote_.get());
  for (const Averaged& mean : means_)
    if (mean.get() != nullptr) collectives.push_back(mean.get());
  for (Collective* collective : collectives) collective->limit_in_flight(in_flight);
  communication_ = std::make_unique<Communication>(
      std::move(collectives), options.overlap && transport.size() > 1 && options.plan == nullptr);
  if (options.plan != nullptr && vote_)
    members_ = std::make_unique<VoterMembers>(
        *options.plan, state, layout_, *ballot_, transport,
        [this](ParameterState& s, bool usable) { caster_.cast_now(s, usable, *ballot_); },
        [this](std::size_t segment) { vote_->release(segment); }, Deadline::in(options.deadline),
        [this](ParameterState& s, const Tensor& gradient, bool usable, GramSum& parts) {
          caster_.cast_part(s, gradient, usable, parts, *ballot_);
        },
        options.deadline);
}

StepPipeline::~StepPipeline() = default;

// Between GPUs votes and means share a link, on which all ranks must do the same in the same order:
// first the vote's pieces, then those of each mean.
StepPipeline::Averaged StepPipeline::make_mean(std::size_t wire) {
  const DType type = wire == 0 ? DType::f32 : DType::bf16;
  Averaged mean;
  DeviceLink* const link = transport_.device_link();
  if (link == nullptr) {
    mean.host =
        std::make_unique<Mean>(layout_.mean_lengths(wire), type, transport_, 0, stream_.device());
    return mean;
  }
  const auto before = [this, wire] {
    return (!vote_ || vote_->all_started()) &&
           (wire == 0 || !means_[0].device || means_[0].device->all_started());
  };
  mean.device =
      std::make_unique<DeviceMean>(layout_.mean_lengths(wire), type, transport_, *link, before);
  return mean;
}

void StepPipeline::leave() {
  communication_.reset();
  // Each would wait for the whole device, so for what another still has on the wire.
  if (DeviceLink* link = transport_.device_link())
    for (Collective* one :
         {static_cast<Collective*>(vote_.get()), static_cast<Collective*>(means_[0].get()),
          static_cast<Collective*>(means_[1].get())})
      if (one != nullptr && one->under_way()) link->abort();
  vote_.reset();
  for (Averaged& mean : means_) mean.device.reset();
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

void StepPipeline::ready(const Parameter& parameter, Stream& stream) {
  ++ready_count_;
  ParameterState& state = state_.of(parameter);
  if (state.group->reduce == Reduce::vote && members_) {
    offer(state);
  } else if (state.group->reduce == Reduce::vote) {
    caster_.cast(state, stream, !outcome_.loss_fault, *ballot_);
  } else {
    const Averaged& mean = mean_of(state);
    if (mean.device)
      caster_.contribute(state, stream, !outcome_.loss_fault, mean.device->values());
    else
      caster_.contribute(state, stream, !outcome_.loss_fault, mean.host->values());
  }
  release_made(false);
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

void StepPipeline::release_made(bool wait) {
  while (const auto made = caster_.next(wait)) {
    outcome_.gradient_faults += !made->finite;
    const StepLayout::Place& place = layout_.place(*made->state);
    if (made->state->group->reduce == Reduce::vote) {
      vote_->release(static_cast<std::size_t>(place.segment));
    } else {
      const auto segment = static_cast<std::size_t>(place.mean_segment);
      Averaging& mean = *mean_of(*made->state).get();
      mean.contributes()[segment] = made->counts;
      mean.release(segment);
    }
    if (wait) communication_->wake();
  }
}

StepOutcome StepPipeline::finish() {
  // A tensor that was never reported would vote with the bits of the step before.
  require(ready_count_ == state_.states().size(), "step {}: {} of {} gradients were reported",
          step_, ready_count_, state_.states().size());
  Stopwatch device_watch;
  release_made(true);
  outcome_.awaited_seconds = device_watch.elapsed();
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
    if (means_[i].get() == nullptr) continue;
    take_mean(i, decision);
    outcome_.tally_seconds += means_[i].get()->work_seconds();
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

const StepPipeline::Averaged& StepPipeline::mean_of(const ParameterState& state) const {
  return means_[layout_.place(state).wire];
}

void StepPipeline::take_mean(std::size_t wire, StepDecision& decision) {
  Averaged& mean = means_[wire];
  decision.contributors[wire] = mean.get()->contributors();
  if (mean.host) {
    decision.means[wire] = mean.host->values();
    return;
  }
  decision.device_means[wire] = mean.device->values();
  if (!on_held_) return;
  const std::size_t bytes = static_cast<std::size_t>(mean.device->count()) * sizeof(float);
  if (mean.fetched.size_bytes() == 0) mean.fetched = PinnedBuffer(bytes, stream_.device());
  copy_bytes(mean.fetched.data(), Device{}, mean.device->values(), stream_.device(), bytes,
             stream_);
  stream_.synchronize();
  decision.means[wire] = mean.fetched.span<float>();
}

}  // namespace ballot
