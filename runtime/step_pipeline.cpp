#include "runtime/step_pipeline.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"
#include "optim/direction.h"
#include "runtime/schedule_choice.h"

namespace ballot {
namespace {

BALLOT_VECTORIZED void copy_scaled(const float* __restrict x, float* __restrict y, float scale,
                                   std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = scale * x[i];
}

}  // namespace

StepPipeline::StepPipeline(const ParameterArena& arena, OptimizerState& state, Transport& transport,
                           StepOptions options)
    : state_(state),
      transport_(transport),
      options_(options),
      layout_(state),
      update_(arena, state, layout_, options.vote.seed, options.vote.ties) {
  std::int64_t largest = 0, most_rows = 0, smaller_side[2] = {0, 0}, largest_count[2] = {0, 0};
  for (const ParameterState& s : state.states()) {
    if (s.group->reduce != Reduce::vote) continue;
    const Parameter& p = *s.parameter;
    if (s.momentum.view().data == nullptr) continue;  // another member works on it
    largest = std::max(largest, p.extent());
    most_rows = std::max(most_rows, p.shape.rows);
    if (!s.group->newton_schulz) continue;
    const std::size_t type = wire_index(s.group->newton_schulz_type);
    smaller_side[type] = std::max(smaller_side[type], std::min(p.shape.rows, p.shape.cols));
    largest_count[type] = std::max(largest_count[type], p.count());
  }

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
    if (largest_count[i] > 0)
      newton_schulz_[i] = std::make_unique<NewtonSchulz>(smaller_side[i], largest_count[i],
                                                         i == 0 ? DType::f32 : DType::bf16);
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
        [this](std::size_t segment) { vote_->release(segment); }, Deadline::in(options.deadline));
  direction_ = Buffer(largest * sizeof(float));
  silent_rows_.assign(most_rows, 0);
}

StepPipeline::~StepPipeline() = default;

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
  const bool finite = !outcome_.loss_fault && scan_gradient(state.parameter->gradient, {}).finite;
  outcome_.gradient_faults += !finite;
  members_->offer(state, finite && !abstains_);
  members_->advance();
}

bool StepPipeline::cast(ParameterState& state, bool usable) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  const BallotSegment& segment = layout_.segment(state);
  Stopwatch watch;
  // In an untied embedding a row without a gradient is a row without a token in this voter's batch.
  // It says nothing, or its stale momentum would push it at full step size for thousands of steps.
  const bool rows_matter = p.shape.kind == ParameterKind::embedding && !p.shape.tied &&
                           group.embedding_rows == EmbeddingRows::seen;
  const std::span<std::uint8_t> silent_rows =
      rows_matter ? std::span(silent_rows_).first(p.shape.rows) : std::span<std::uint8_t>{};
  const bool finite = usable && scan_gradient(p.gradient, silent_rows).finite;
  if (!finite || abstains_) {
    abstain(segment, *ballot_);
    return finite || members_ != nullptr;  // members count their own
  }
  const Tensor direction = shaped_as(p, direction_.as<float>());
  find_direction(group, p.gradient, trimmed(state.momentum, p), direction,
                 newton_schulz_[wire_index(group.newton_schulz_type)].get(), stream_);
  outcome_.direction_seconds += watch.lap();
  const int voter = transport_.rank() / options_.vote.members;
  const CastOptions options{options_.vote.seed, step_, voter, group.abstain_below};
  cast_ballot(direction.f32(), segment, options, silent_rows, *ballot_);
  outcome_.pack_seconds += watch.lap();
  return true;
}

void StepPipeline::contribute(ParameterState& state) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  Stopwatch watch;
  Mean& mean = mean_of(state);
  const StepLayout::Place& place = layout_.place(state);
  const GradientScan scan = scan_gradient(p.gradient, {});
  const bool finite = !outcome_.loss_fault && scan.finite;
  mean.contributes()[static_cast<std::size_t>(place.mean_segment)] = finite && !abstains_;
  if (!finite || abstains_) {
    outcome_.gradient_faults += !finite;
    return;
  }
  // One voter's influence on a mean is bounded by its norm: the vote bounds it by its one bit.
  const double norm = std::sqrt(scan.square_sum);
  const float scale = group.clip_norm > 0 && norm > group.clip_norm
                          ? static_cast<float>(group.clip_norm / norm)
                          : 1.0f;
  const float* source = p.gradient.f32();
  float* target = mean.values().data() + place.mean_offset;
  parallel_for(p.extent(), 4096, [&](std::int64_t begin, std::int64_t end) {
    copy_scaled(source + begin, target + begin, scale, end - begin);
  });
  outcome_.pack_seconds += watch.lap();
}

StepOutcome StepPipeline::finish() {
  // A tensor that was never reported would vote with the bits of the step before.
  require(ready_count_ == state_.states().size(), "step {}: {} of {} gradients were reported",
          step_, ready_count_, state_.states().size());
  const Deadline deadline = Deadline::in(options_.deadline);
  Stopwatch members_watch;
  const double made_before = outcome_.direction_seconds + outcome_.pack_seconds;
  if (members_) members_->finish(deadline);
  // What this member computed meanwhile was no waiting.
  const double members_seconds =
      members_watch.elapsed() - (outcome_.direction_seconds + outcome_.pack_seconds - made_before);
  const Communication::Times times = communication_->finish(deadline);
  outcome_.exposed_seconds = times.exposed + (members_ ? members_seconds : 0);
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
  outcome_.direction_seconds += update_.times().direction;
  outcome_.pack_seconds += update_.times().pack;
  outcome_.apply_seconds += update_.times().apply;
  return outcome_;
}

Mean& StepPipeline::mean_of(const ParameterState& state) const {
  return *means_[layout_.place(state).wire];
}

}  // namespace ballot
