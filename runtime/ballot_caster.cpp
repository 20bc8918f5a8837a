#include "runtime/ballot_caster.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/clock.h"
#include "core/parallel.h"
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
    largest = std::max(largest, s.part.extent());
    most_rows = std::max(most_rows, s.part.rows);
    if (!s.group->newton_schulz) continue;
    const std::size_t type = wire_index(s.group->newton_schulz_type);
    smaller_side[type] = std::max(smaller_side[type], std::min(p.shape.rows, p.shape.cols));
    largest_count[type] = std::max(largest_count[type], s.part.rows * s.part.cols);
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

// In an untied embedding a row without a gradient is a row without a token in this voter's batch.
// It says nothing, or its stale momentum would push it at full step size for thousands of steps.
std::span<std::uint8_t> BallotCaster::silent_rows(const ParameterState& state) {
  const ParameterShape& shape = state.parameter->shape;
  const bool rows_matter = shape.kind == ParameterKind::embedding && !shape.tied &&
                           state.group->embedding_rows == EmbeddingRows::seen;
  if (!rows_matter) return {};
  return std::span(silent_rows_).first(static_cast<std::size_t>(state.part.rows));
}

bool BallotCaster::cast(ParameterState& state, bool usable, Ballot& ballot) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  const BallotSegment& segment = layout_.segment(state);
  Stopwatch watch;
  const std::span<std::uint8_t> silent = silent_rows(state);
  const bool finite = usable && scan_gradient(p.gradient, silent, stream_).finite;
  if (!finite || abstains_) {
    abstain(segment, ballot);
    return finite;
  }
  if (before_change_) before_change_(p, Changing::state);
  const Tensor direction = shaped_as(p, direction_.as<float>(), direction_.device());
  find_direction(group, p.gradient, momentum_of(state), direction,
                 newton_schulz_[wire_index(group.newton_schulz_type)].get(), stream_);
  stream_.synchronize();  // so that each stage has its own time
  times_.direction += watch.lap();
  cast_ballot(direction, segment, CastOptions{seed_, step_, voter_, group.abstain_below}, silent,
              ballot, stream_);
  times_.pack += watch.lap();
  return true;
}

bool BallotCaster::cast_part(ParameterState& state, const Tensor& gradient, bool usable,
                             GramSum& parts, Ballot& ballot) {
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  const TensorPart& part = state.part;
  const BallotSegment& segment = layout_.segment(state);
  Stopwatch watch;
  const std::span<std::uint8_t> silent = silent_rows(state);
  bool finite = false, votes = false;
  if (usable) {
    const GradientScan scan = scan_gradient(gradient, silent, stream_);
    finite = scan.finite;
    // One that abstains tells the others with what is not finite.
    const double mine = abstains_ ? std::numeric_limits<double>::quiet_NaN() : scan.square_sum;
    votes = std::isfinite(parts.sum(mine));
  }
  if (!votes) {
    times_.direction += watch.lap();
    for (std::int64_t k = 0; k < stretches(part); ++k) abstain(stretch(segment, part, k), ballot);
    return finite;
  }
  if (before_change_) before_change_(p, Changing::state);
  const Tensor direction = matrix_of(part, direction_.data(), DType::f32, direction_.device());
  find_direction_of_part(group, gradient, momentum_of(state), direction, is_wide(p.shape),
                         newton_schulz_[wire_index(group.newton_schulz_type)].get(), parts,
                         stream_);
  CastOptions options{seed_, step_, voter_, group.abstain_below};
  if (group.abstain_below > 0)
    options.root_mean_square =
        std::sqrt(parts.sum(scan_gradient(direction, {}, stream_).square_sum) /
                  static_cast<double>(p.count()));
  stream_.synchronize();
  times_.direction += watch.lap();
  const std::int64_t rows = part.rows / stretches(part);
  parallel_items(stretches(part), [&](std::int64_t k) {
    Stream stream;
    cast_ballot(direction.rows(k * rows, (k + 1) * rows), stretch(segment, part, k), options,
                silent, ballot, stream);
  });
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
