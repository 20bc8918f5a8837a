#include "runtime/ballot_caster.h"

#include <algorithm>
#include <cmath>

#include "core/clock.h"
#include "optim/contribution.h"
#include "optim/direction.h"

namespace ballot {
namespace {

// All parameters lie on one.
Device device_of(const OptimizerState& state) {
  return state.states().empty() ? Device{} : state.states().front().parameter->value.device;
}

}  // namespace

BallotCaster::BallotCaster(const OptimizerState& state, const StepLayout& layout,
                           std::uint64_t seed)
    : layout_(layout), seed_(seed), stream_(device_of(state)) {
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
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}})
    if (largest_count[i] > 0)
      newton_schulz_[i] = std::make_unique<NewtonSchulz>(
          smaller_side[i], largest_count[i], i == 0 ? DType::f32 : DType::bf16, stream_.device());
  direction_ = Buffer(static_cast<std::size_t>(largest) * sizeof(float), stream_.device());
  silent_rows_.assign(static_cast<std::size_t>(most_rows), 0);
}

void BallotCaster::begin(std::int64_t step, int voter) {
  step_ = step;
  voter_ = voter;
  times_ = {};
}

bool BallotCaster::cast(ParameterState& state, bool usable, Ballot& ballot) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  const BallotSegment& segment = layout_.segment(state);
  Stopwatch watch;
  // In an untied embedding a row without a gradient is a row without a token in this voter's batch.
  // It says nothing, or its stale momentum would push it at full step size for thousands of steps.
  const bool rows_matter = p.shape.kind == ParameterKind::embedding && !p.shape.tied &&
                           group.embedding_rows == EmbeddingRows::seen;
  const std::span<std::uint8_t> silent_rows =
      rows_matter ? std::span(silent_rows_).first(static_cast<std::size_t>(p.shape.rows))
                  : std::span<std::uint8_t>{};
  const bool finite = usable && scan_gradient(p.gradient, silent_rows, stream_).finite;
  if (!finite || abstains_) {
    abstain(segment, ballot);
    return finite;
  }
  if (before_change_) before_change_(p, Changing::state);
  const Tensor direction = shaped_as(p, direction_.as<float>(), direction_.device());
  find_direction(group, p.gradient, trimmed(state.momentum, p), direction,
                 newton_schulz_[wire_index(group.newton_schulz_type)].get(), stream_);
  stream_.synchronize();  // so that each stage has its own time
  times_.direction += watch.lap();
  cast_ballot(direction, segment, CastOptions{seed_, step_, voter_, group.abstain_below},
              silent_rows, ballot, stream_);
  times_.pack += watch.lap();
  return true;
}

BallotCaster::Contribution BallotCaster::contribute(const ParameterState& state, bool usable,
                                                    std::span<float> values) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  Stopwatch watch;
  const GradientScan scan = scan_gradient(p.gradient, {}, stream_);
  const bool finite = usable && scan.finite;
  if (!finite || abstains_) return {finite, false};
  // One voter's influence on a mean is bounded by its norm: the vote bounds it by its one bit.
  const double norm = std::sqrt(scan.square_sum);
  const float scale = group.clip_norm > 0 && norm > group.clip_norm
                          ? static_cast<float>(group.clip_norm / norm)
                          : 1.0f;
  copy_scaled(p.gradient, scale,
              values.subspan(static_cast<std::size_t>(layout_.place(state).mean_offset),
                             static_cast<std::size_t>(p.extent())),
              stream_);
  times_.pack += watch.lap();
  return {true, true};
}

}  // namespace ballot
