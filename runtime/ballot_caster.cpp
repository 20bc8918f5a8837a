#include "runtime/ballot_caster.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "collectives/cuda_mean.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/parallel.h"
#include "optim/contribution.h"
#include "optim/direction.h"
#include "optim/square_sum.h"

namespace ballot {
namespace {

// All parameters lie on one.
Device device_of(const OptimizerState& state) {
  return state.states().empty() ? Device{} : state.states().front().parameter->value.device;
}

std::size_t index_of(const ParameterState& state) {
  return static_cast<std::size_t>(state.parameter->index);
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
  const Device device = stream_.device();
  direction_ = Buffer(static_cast<std::size_t>(largest) * sizeof(float), device);
  silent_rows_.assign(static_cast<std::size_t>(most_rows), 0);
  under_way_.reserve(state.parameter_count());
  if (!on_gpu()) return;
  device_silent_rows_ = Buffer(static_cast<std::size_t>(most_rows), device);
  square_sums_ = Buffer(state.parameter_count() * sizeof(double), device);
  arrived_square_sums_ = PinnedBuffer(square_sums_.size_bytes(), device);
  for (std::size_t i = 0; i < state.parameter_count(); ++i) arrived_.emplace_back(device);
  gradient_ = Event(device);
}

void BallotCaster::begin(std::int64_t step, int voter) {
  step_ = step;
  voter_ = voter;
  times_ = {};
  require(under_way_.empty(), "step {} begins while {} tensors are cast", step,
          under_way_.size() - told_);
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

void BallotCaster::cast(ParameterState& state, Stream& gradients, bool usable, Ballot& ballot) {
  Cast cast{.made = {.state = &state},
            .usable = usable,
            .silent = !usable || abstains_,
            .ballot = &ballot};
  if (on_gpu())
    start_on_gpu(cast, gradients);
  else
    cast.made.finite = cast_now(state, usable, ballot);
  under_way_.push_back(cast);
}

void BallotCaster::contribute(ParameterState& state, Stream& gradients, bool usable,
                              std::span<float> values) {
  Cast cast{.made = {.state = &state},
            .usable = usable,
            .silent = !usable || abstains_,
            .values = values.subspan(static_cast<std::size_t>(layout_.place(state).mean_offset),
                                     static_cast<std::size_t>(state.parameter->extent()))};
  if (on_gpu())
    start_on_gpu(cast, gradients);
  else
    cast.made = contribute_now(state, usable, cast.values);
  under_way_.push_back(cast);
}

void BallotCaster::contribute(ParameterState& state, Stream& gradients, bool usable,
                              float* device_values) {
  require(on_gpu(), "a contribution of {} to a mean on a GPU", to_string(stream_.device()));
  const Cast cast{.made = {.state = &state},
                  .usable = usable,
                  .silent = !usable || abstains_,
                  .device_values = device_values + layout_.place(state).mean_offset};
  start_on_gpu(cast, gradients);
  under_way_.push_back(cast);
}

std::optional<BallotCaster::Made> BallotCaster::next(bool wait) {
  if (under_way_.empty()) return {};
  Cast& cast = under_way_[told_];
  if (on_gpu()) {
    const Event& arrived = arrived_[index_of(*cast.made.state)];
    Stopwatch watch;
    if (wait)
      arrived.wait();
    else if (!arrived.done())
      return {};
    end_on_gpu(cast);
    times_.pack += watch.lap();
  }
  const Made made = cast.made;
  if (++told_ == under_way_.size()) {
    under_way_.clear();
    told_ = 0;
  }
  return made;
}

void BallotCaster::start_on_gpu(const Cast& cast, Stream& gradients) {
  const ParameterState& state = *cast.made.state;
  const Parameter& p = *state.parameter;
  Stopwatch watch;
  const std::size_t index = index_of(state);
  double* const square_sum = square_sums_.as<double>() + index;
  const bool rows_matter = cast.ballot != nullptr && !silent_rows(state).empty();
  gradient_.record(gradients);
  gradient_.hold(stream_);
  start_square_sum(p.gradient, square_sum,
                   rows_matter ? device_silent_rows_.as<std::uint8_t>() : nullptr, stream_);
  copy_bytes(arrived_square_sums_.as<double>() + index, Device{}, square_sum, stream_.device(),
             sizeof(double), stream_);
  times_.direction += watch.lap();
  if (cast.ballot != nullptr) {
    start_ballot(cast, square_sum);
  } else if (!cast.silent && cast.device_values != nullptr) {
    cuda_mean().clip(p.gradient.f32(), p.extent(), square_sum, state.group->clip_norm,
                     cast.device_values, stream_);
    times_.pack += watch.lap();
  } else if (!cast.silent) {
    copy_bytes(cast.values.data(), Device{}, p.gradient.f32(), stream_.device(),
               cast.values.size_bytes(), stream_);
    times_.pack += watch.lap();
  }
  arrived_[index].record(stream_);
}

void BallotCaster::start_ballot(const Cast& cast, const double* square_sum) {
  ParameterState& state = *cast.made.state;
  const Parameter& p = *state.parameter;
  const ParameterGroup& group = *state.group;
  const BallotSegment& segment = layout_.segment(state);
  if (cast.silent) return start_abstain(segment, *cast.ballot, stream_);
  Stopwatch watch;
  if (before_change_) before_change_(p, Changing::state);
  const Tensor direction = shaped_as(p, direction_.as<float>(), direction_.device());
  find_direction(group, p.gradient, momentum_of(state), direction,
                 newton_schulz_[wire_index(group.newton_schulz_type)].get(), stream_, square_sum);
  times_.direction += watch.lap();
  start_cast(direction, segment, CastOptions{seed_, step_, voter_, group.abstain_below},
             silent_rows(state).empty() ? nullptr : device_silent_rows_.as<std::uint8_t>(),
             square_sum, *cast.ballot, stream_);
  times_.pack += watch.lap();
}

void BallotCaster::end_on_gpu(Cast& cast) {
  const ParameterState& state = *cast.made.state;
  const double square_sum = arrived_square_sums_.as<double>()[index_of(state)];
  cast.made.finite = cast.usable && std::isfinite(square_sum);
  if (cast.ballot != nullptr && cast.silent) {
    abstain(layout_.segment(state), *cast.ballot);
  } else if (cast.ballot != nullptr) {
    end_cast(layout_.segment(state), *cast.ballot);
  } else if (!cast.silent && cast.made.finite) {
    cast.made.counts = true;
    if (cast.device_values == nullptr) scale(cast.values, clip_factor(state, square_sum));
  }
}

bool BallotCaster::cast_now(ParameterState& state, bool usable, Ballot& ballot) {
  require(!on_gpu(), "a ballot of {} is not cast at once", to_string(stream_.device()));
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

BallotCaster::Made BallotCaster::contribute_now(ParameterState& state, bool usable,
                                                std::span<float> values) {
  const Parameter& p = *state.parameter;
  Stopwatch watch;
  const GradientScan scan = scan_gradient(p.gradient, {}, stream_);
  const bool finite = usable && scan.finite;
  if (!finite || abstains_) return {.state = &state, .finite = finite};
  copy_scaled(p.gradient, clip_factor(state, scan.square_sum), values);
  times_.pack += watch.lap();
  return {.state = &state, .finite = true, .counts = true};
}

// One voter's influence on a mean is bounded by its norm: the vote bounds it by its one bit.
float BallotCaster::clip_factor(const ParameterState& state, double square_sum) const {
  const double norm = std::sqrt(square_sum), most = state.group->clip_norm;
  return most > 0 && norm > most ? static_cast<float>(most / norm) : 1.0f;
}

}  // namespace ballot
