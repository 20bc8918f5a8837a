#include "runtime/step_pipeline.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"
#include "optim/direction.h"
#include "optim/replicated_update.h"
#include "runtime/schedule_choice.h"

namespace ballot {
namespace {

BALLOT_VECTORIZED void copy_scaled(const float* __restrict x, float* __restrict y, float scale,
                                   std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = scale * x[i];
}

std::size_t index_of(DType type) {
  return type == DType::f32 ? 0 : 1;
}

BallotSegment to_segment(const Parameter& parameter) {
  BallotSegment segment;
  segment.name = parameter.shape.name;
  segment.rows = parameter.shape.rows;
  segment.cols = parameter.shape.cols;
  segment.row_stride = parameter.row_stride;
  segment.arena_offset = parameter.offset;
  return segment;
}

Tensor shaped_as(const Parameter& parameter, float* data) {
  return make_matrix(data, DType::f32, parameter.shape.rows, parameter.shape.cols,
                     parameter.row_stride);
}

// The matrix itself, without the padding columns that the owner's shape includes.
Tensor trimmed(const OwnedTensor& owned, const Parameter& parameter) {
  return make_matrix(owned.view().data, owned.view().type, parameter.shape.rows,
                     parameter.shape.cols, parameter.row_stride);
}

}  // namespace

StepPipeline::StepPipeline(const ParameterArena& arena, OptimizerState& state, Transport& transport,
                           StepOptions options)
    : arena_(arena), state_(state), transport_(transport), options_(options) {
  const std::size_t count = arena.parameters().size();
  segment_index_.assign(count, -1);
  mean_offset_.assign(count, -1);
  mean_segment_.assign(count, -1);
  digests_.assign(count, 0);

  std::vector<BallotSegment> voted, alone;
  std::vector<std::int64_t> mean_lengths[2];
  std::int64_t mean_extent[2] = {0, 0}, largest = 0, most_rows = 0;
  std::int64_t smaller_side[2] = {0, 0}, largest_count[2] = {0, 0};
  for (ParameterState& s : state.states()) {
    const Parameter& p = *s.parameter;
    const ParameterGroup& group = *s.group;
    largest = std::max(largest, p.extent());
    most_rows = std::max(most_rows, p.shape.rows);
    if (group.newton_schulz) {
      const std::size_t type = index_of(group.newton_schulz_type);
      smaller_side[type] = std::max(smaller_side[type], std::min(p.shape.rows, p.shape.cols));
      largest_count[type] = std::max(largest_count[type], p.count());
    }
    if (group.reduce == Reduce::vote) {
      segment_index_[p.index] = static_cast<std::int64_t>(voted.size());
      voted.push_back(to_segment(p));
      continue;
    }
    const std::size_t wire = group.reduce == Reduce::mean_f32 ? 0 : 1;
    mean_offset_[p.index] = mean_extent[wire];
    mean_segment_[p.index] = static_cast<std::int64_t>(mean_lengths[wire].size());
    mean_lengths[wire].push_back(p.extent());
    mean_extent[wire] += p.extent();
    if (is_sign_rule(group.rule)) {
      segment_index_[p.index] = static_cast<std::int64_t>(alone.size());
      alone.push_back(to_segment(p));
    }
  }

  std::size_t in_flight = kPiecesInFlight;
  layout_ = BallotLayout(std::move(voted));
  if (!layout_.segments().empty()) {
    ballot_ = std::make_unique<Ballot>(layout_);
    if (options.choose_schedule) {
      MeasuredChoice measured =
          choose_by_measurement(layout_, options.vote, transport, Deadline::in(options.deadline));
      options_.vote.schedule = measured.choice.schedule;
      if (options_.vote.schedule != Schedule::hierarchical) options_.vote.node_size = 1;
      schedule_reason_ = std::move(measured.choice.reason);
      in_flight = measured.pieces_in_flight;
    }
    vote_ = make_vote(*ballot_, transport, options_.vote, Deadline::in(options.deadline));
  }
  elected_alone_ = BallotLayout(std::move(alone));
  if (!elected_alone_.segments().empty()) {
    // The same zeros, tally and update as any vote, with the mean as the only voter.
    alone_ = std::move(make_loopback(1).front());
    mean_ballot_ = std::make_unique<Ballot>(elected_alone_);
    VoteOptions alone_options;
    alone_options.seed = options.vote.seed;
    alone_options.ties = options.vote.ties;
    mean_vote_ = make_vote(*mean_ballot_, *alone_, alone_options, Deadline::in(options.deadline));
  }
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    if (!mean_lengths[i].empty())
      means_[i] =
          std::make_unique<Mean>(mean_lengths[i], i == 0 ? DType::f32 : DType::bf16, transport);
    if (largest_count[i] > 0)
      newton_schulz_[i] = std::make_unique<NewtonSchulz>(smaller_side[i], largest_count[i],
                                                         i == 0 ? DType::f32 : DType::bf16);
  }
  std::vector<Collective*> collectives;
  if (vote_) collectives.push_back(vote_.get());
  for (const auto& mean : means_)
    if (mean) collectives.push_back(mean.get());
  for (Collective* collective : collectives) collective->limit_in_flight(in_flight);
  communication_ = std::make_unique<Communication>(std::move(collectives),
                                                   options.overlap && transport.size() > 1);
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

const BallotSegment* StepPipeline::segment_of(const Parameter& parameter) const {
  const std::int64_t index = segment_index_[parameter.index];
  if (index < 0) return nullptr;
  const bool voted = state_.of(parameter).group->reduce == Reduce::vote;
  return &(voted ? layout_ : elected_alone_).segments()[index];
}

Tensor StepPipeline::scratch_like(const Parameter& parameter) const {
  return shaped_as(parameter, direction_.as<float>());
}

void StepPipeline::begin(std::int64_t step, double rate_factor) {
  step_ = step;
  rate_factor_ = rate_factor;
  outcome_ = StepOutcome{};
  ready_count_ = 0;
  communication_->begin(step);
}

void StepPipeline::loss_known(double mean_loss) {
  outcome_.loss_fault = !std::isfinite(mean_loss);
}

void StepPipeline::ready(const Parameter& parameter) {
  ++ready_count_;
  ParameterState& state = state_.of(parameter);
  if (state.group->reduce == Reduce::vote) {
    cast(state);
    vote_->release(segment_index_[parameter.index]);
  } else {
    contribute(state);
    mean_of(state).release(mean_segment_[parameter.index]);
  }
  communication_->wake();
}

void StepPipeline::cast(ParameterState& state) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  const BallotSegment& segment = *segment_of(p);
  Stopwatch watch;
  // In an untied embedding a row without a gradient is a row without a token in this voter's batch.
  // It says nothing, or its stale momentum would push it at full step size for thousands of steps.
  const bool rows_matter = p.shape.kind == ParameterKind::embedding && !p.shape.tied &&
                           group.embedding_rows == EmbeddingRows::seen;
  const std::span<std::uint8_t> silent_rows =
      rows_matter ? std::span(silent_rows_).first(p.shape.rows) : std::span<std::uint8_t>{};
  const bool finite = !outcome_.loss_fault && scan_gradient(p.gradient, silent_rows).finite;
  if (!finite) {
    abstain(segment, *ballot_);
    ++outcome_.gradient_faults;
    return;
  }
  const Tensor direction = scratch_like(p);
  find_direction(group, p.gradient, trimmed(state.momentum, p), direction,
                 newton_schulz_[index_of(group.newton_schulz_type)].get(), stream_);
  outcome_.direction_seconds += watch.lap();
  const CastOptions options{options_.vote.seed, step_, transport_.rank(), group.abstain_below};
  cast_ballot(direction.f32(), segment, options, silent_rows, *ballot_);
  outcome_.pack_seconds += watch.lap();
}

void StepPipeline::contribute(ParameterState& state) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  Stopwatch watch;
  Mean& mean = mean_of(state);
  const GradientScan scan = scan_gradient(p.gradient, {});
  const bool finite = !outcome_.loss_fault && scan.finite;
  mean.contributes()[mean_segment_[p.index]] = finite;
  if (!finite) {
    ++outcome_.gradient_faults;
    return;
  }
  // One voter's influence on a mean is bounded by its norm: the vote bounds it by its one bit.
  const double norm = std::sqrt(scan.square_sum);
  const float scale = group.clip_norm > 0 && norm > group.clip_norm
                          ? static_cast<float>(group.clip_norm / norm)
                          : 1.0f;
  const float* source = p.gradient.f32();
  float* target = mean.values().data() + mean_offset_[p.index];
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
  const Communication::Times times = communication_->finish(deadline);
  outcome_.exposed_seconds = times.exposed;
  outcome_.hidden_seconds = times.hidden;
  const Verdict* verdict = nullptr;
  if (vote_) {
    verdict = &vote_->verdict();
    outcome_.votes = &verdict->statistics;
    outcome_.tally_seconds += vote_->work_seconds();
  }
  for (const auto& mean : means_)
    if (mean) outcome_.tally_seconds += mean->work_seconds();

  const Verdict* mean_verdict = nullptr;
  if (mean_vote_) {
    for (ParameterState& state : state_.states())
      if (state.group->reduce != Reduce::vote && is_sign_rule(state.group->rule)) cast_mean(state);
    mean_verdict = &mean_vote_->elect(step_, deadline);
  }
  for (ParameterState& state : state_.states()) {
    if (is_sign_rule(state.group->rule))
      apply_sign(state, state.group->reduce == Reduce::vote ? *verdict : *mean_verdict);
    else
      apply_dense(state);
  }
  return outcome_;
}

Mean& StepPipeline::mean_of(const ParameterState& state) const {
  return *means_[state.group->reduce == Reduce::mean_f32 ? 0 : 1];
}

bool StepPipeline::has_mean(const ParameterState& state) const {
  return mean_of(state).contributors()[mean_segment_[state.parameter->index]] > 0;
}

Tensor StepPipeline::mean_gradient(const ParameterState& state) const {
  const Parameter& p = *state.parameter;
  return shaped_as(p, mean_of(state).values().data() + mean_offset_[p.index]);
}

Tensor StepPipeline::find_mean_direction(ParameterState& state) {
  Stopwatch watch;
  const Parameter& p = *state.parameter;
  const Tensor direction = scratch_like(p);
  find_direction(*state.group, mean_gradient(state), trimmed(state.momentum, p), direction,
                 newton_schulz_[index_of(state.group->newton_schulz_type)].get(), stream_);
  outcome_.direction_seconds += watch.lap();
  return direction;
}

void StepPipeline::cast_mean(ParameterState& state) {
  const BallotSegment& segment = *segment_of(*state.parameter);
  if (!has_mean(state)) return abstain(segment, *mean_ballot_);
  const Tensor direction = find_mean_direction(state);
  Stopwatch watch;
  cast_ballot(direction.f32(), segment, CastOptions{options_.vote.seed, step_, 0, 0.0}, {},
              *mean_ballot_);
  outcome_.pack_seconds += watch.lap();
}

void StepPipeline::apply_sign(ParameterState& state, const Verdict& verdict) {
  Stopwatch watch;
  const Parameter& p = *state.parameter;
  const RateFactors factors = rate_factors(*state.group, rate_factor_, p.shape.rows, p.shape.cols);
  digests_[p.index] = apply_verdict(verdict, *segment_of(p), factors, p);
  outcome_.apply_seconds += watch.lap();
}

void StepPipeline::apply_dense(ParameterState& state) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  const RateFactors factors = rate_factors(group, rate_factor_, p.shape.rows, p.shape.cols);
  const bool adamw = group.rule == Rule::adamw, usable = has_mean(state);
  const Tensor direction = usable && !adamw ? find_mean_direction(state) : Tensor{};
  Stopwatch watch;
  if (!usable)  // nobody had a usable gradient: no step
    digests_[p.index] = apply_decay(factors, p);
  else if (adamw)
    digests_[p.index] = apply_adamw(group, mean_gradient(state), ++state.count, factors,
                                    trimmed(state.momentum, p), trimmed(state.second, p), p);
  else
    digests_[p.index] = apply_direction(direction, factors, p);
  outcome_.apply_seconds += watch.lap();
}

}  // namespace ballot
