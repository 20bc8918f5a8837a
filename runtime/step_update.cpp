#include "runtime/step_update.h"

#include <algorithm>
#include <utility>

#include "core/copy.h"
#include "core/error.h"
#include "optim/direction.h"
#include "optim/replicated_update.h"

namespace ballot {
namespace {

constexpr Duration kAlone = std::chrono::seconds(600);  // of a vote that nobody else takes part in

// Whether anybody gave a gradient of an averaged tensor.
bool has_contributors(const StepLayout::Place& place,
                      const std::array<std::span<const std::int32_t>, 2>& all) {
  const auto contributors = all[place.wire];
  require(place.mean_segment >= 0 &&
              place.mean_segment < static_cast<std::int64_t>(contributors.size()),
          "tensor {} of a mean of {}", place.mean_segment, contributors.size());
  return contributors[static_cast<std::size_t>(place.mean_segment)] > 0;
}

}  // namespace

StepUpdate::StepUpdate(const ParameterArena& arena, OptimizerState& state, const StepLayout& layout,
                       std::uint64_t seed, Ties ties)
    : arena_(arena),
      state_(state),
      layout_(layout),
      seed_(seed),
      factors_(arena.parameters().size()),
      counts_(arena.parameters().size()),
      digests_(arena.parameters().size()),
      stream_(arena.device()) {
  for (const Parameter& p : arena.parameters())
    if (p.shape.frozen) frozen_.push_back(&p);
  std::int64_t largest = 0, largest_mean = 0, smaller_side[2] = {0, 0}, largest_count[2] = {0, 0};
  for (const ParameterState& s : state.states()) {
    if (s.group->reduce != Reduce::vote)
      largest_mean = std::max(largest_mean, s.parameter->extent());
    if (s.group->reduce == Reduce::vote || s.group->rule == Rule::adamw) continue;
    const Parameter& p = *s.parameter;
    largest = std::max(largest, p.extent());
    if (!s.group->newton_schulz) continue;
    const std::size_t type = wire_index(s.group->newton_schulz_type);
    smaller_side[type] = std::max(smaller_side[type], std::min(p.shape.rows, p.shape.cols));
    largest_count[type] = std::max(largest_count[type], p.count());
  }
  const Device device = arena.device();
  direction_ = Buffer(static_cast<std::size_t>(largest) * sizeof(float), device);
  if (device.kind == Device::Kind::cuda) {
    largest_mean_bytes_ = static_cast<std::size_t>(largest_mean) * sizeof(float);
    device_digests_ = Buffer(digests_.size() * sizeof(std::uint64_t), device);
    arrived_digests_ = PinnedBuffer(device_digests_.size_bytes(), device);
  }
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}})
    if (largest_count[i] > 0)
      newton_schulz_[i] = std::make_unique<NewtonSchulz>(smaller_side[i], largest_count[i],
                                                         i == 0 ? DType::f32 : DType::bf16, device);
  if (layout.alone().segments().empty()) return;
  // The same zeros, tally and update as any vote, with the mean as the only voter.
  alone_ = std::move(make_loopback(1).front());
  mean_ballot_ = std::make_unique<Ballot>(layout.alone(), device);
  VoteOptions options;
  options.seed = seed;
  options.ties = ties;
  mean_vote_ = make_vote(*mean_ballot_, *alone_, options, Deadline::in(kAlone));
}

StepUpdate::~StepUpdate() = default;

void find_factors(const OptimizerState& state, const StepLayout& layout,
                  std::span<const std::int64_t> counts, double rate_factor,
                  const std::array<std::span<const std::int32_t>, 2>& contributors,
                  std::span<TensorFactors> factors) {
  require(counts.size() == state.parameter_count() && factors.size() == counts.size(),
          "factors of {} tensors and {} counts, expected {}", factors.size(), counts.size(),
          state.parameter_count());
  for (const ParameterState& s : state.states()) {
    const Parameter& p = *s.parameter;
    const auto index = static_cast<std::size_t>(p.index);
    RateFactors rate = rate_factors(*s.group, rate_factor, p.shape.rows, p.shape.cols);
    if (!p.shape.decays) rate.decay = 0;
    factors[index] = {rate.decay, rate.step, 0, 0};
    if (s.group->rule != Rule::adamw || !has_contributors(layout.place(s), contributors)) continue;
    const AdamCorrections corrections = adam_corrections(*s.group, counts[index] + 1, rate.step);
    factors[index].first = corrections.step;
    factors[index].second = corrections.root;
  }
}

const std::vector<TensorFactors>& StepUpdate::find_factors(double rate_factor,
                                                           const StepDecision& decision) {
  for (const ParameterState& s : state_.states())
    counts_[static_cast<std::size_t>(s.parameter->index)] = s.count;
  ballot::find_factors(state_, layout_, counts_, rate_factor, decision.contributors, factors_);
  return factors_;
}

const std::vector<std::uint64_t>& StepUpdate::apply(std::int64_t step, const StepDecision& decision,
                                                    std::span<const TensorFactors> factors) {
  require(factors.size() == digests_.size(), "factors of {} tensors, expected {}", factors.size(),
          digests_.size());
  require(layout_.voted().segments().empty() || decision.verdict != nullptr,
          "step {} without its verdict", step);
  times_ = {};
  fill_zero(device_digests_.data(), device_digests_.size_bytes(), stream_);
  digest_frozen(step);
  const Verdict* mean_verdict = nullptr;
  if (mean_vote_) {
    for (ParameterState& s : state_.states())
      if (s.group->reduce != Reduce::vote && is_sign_rule(s.group->rule))
        cast_mean(s, step, decision);
    if (!awaited_ballots_.empty()) stream_.synchronize();
    for (const BallotSegment* segment : awaited_ballots_) end_cast(*segment, *mean_ballot_);
    awaited_ballots_.clear();
    mean_verdict = &mean_vote_->elect(step, Deadline::in(kAlone));
  }
  for (ParameterState& s : state_.states()) {
    const Parameter& p = *s.parameter;
    const TensorFactors& f = factors[static_cast<std::size_t>(p.index)];
    will_change(p, Changing::value);
    if (!is_sign_rule(s.group->rule)) {
      apply_dense(s, decision, f);
      continue;
    }
    const Stopwatch watch;
    const Verdict& verdict = s.group->reduce == Reduce::vote ? *decision.verdict : *mean_verdict;
    take_digest(p, apply_verdict(verdict, layout_.segment(s), RateFactors{f.decay, f.step}, p,
                                 stream_, later(p)));
    times_.apply += watch.elapsed();
  }
  fetch_digests();
  return digests_;
}

std::uint64_t* StepUpdate::later(const Parameter& parameter) {
  if (device_digests_.size_bytes() == 0) return nullptr;
  return device_digests_.as<std::uint64_t>() + parameter.index;
}

void StepUpdate::take_digest(const Parameter& parameter, std::uint64_t digest) {
  const auto index = static_cast<std::size_t>(parameter.index);
  if (device_digests_.size_bytes() == 0)
    digests_[index] = digest;
  else
    awaited_digests_.push_back(index);
}

void StepUpdate::fetch_digests() {
  const Stopwatch watch;
  copy_bytes(arrived_digests_.data(), Device{}, device_digests_.data(), device_digests_.device(),
             device_digests_.size_bytes(), stream_);
  stream_.synchronize();
  for (const std::size_t i : awaited_digests_)
    digests_[i] = arrived_digests_.as<std::uint64_t>()[i];
  awaited_digests_.clear();
  times_.apply += watch.elapsed();
}

// No step changes it, memory that goes bad does. By the number of the step, so that all workers
// look at the same tensor.
void StepUpdate::digest_frozen(std::int64_t step) {
  if (frozen_.empty()) return;
  const std::size_t turn = static_cast<std::size_t>(step) % frozen_.size();
  const bool all = !std::exchange(frozen_digested_, true);
  for (std::size_t i = 0; i < frozen_.size(); ++i) {
    if (!all && i != turn) continue;
    const Parameter& p = *frozen_[i];
    will_change(p, Changing::value);
    take_digest(p, apply_decay(RateFactors{0, 0}, p, stream_, later(p)));
  }
}

bool StepUpdate::has_mean(const ParameterState& state, const StepDecision& decision) const {
  return has_contributors(layout_.place(state), decision.contributors);
}

// On the parameter's device, until the next one is asked for.
Tensor StepUpdate::mean_gradient(const ParameterState& state, const StepDecision& decision) {
  const Parameter& p = *state.parameter;
  const StepLayout::Place& place = layout_.place(state);
  const Device device = p.value.device;
  if (float* const there = decision.device_means[place.wire])
    return shaped_as(p, there + place.mean_offset, device);
  const std::span<float> values = decision.means[place.wire];
  require(place.mean_offset + p.extent() <= static_cast<std::int64_t>(values.size()),
          "{}: elements {} to {} of a mean of {}", p.shape.name, place.mean_offset,
          place.mean_offset + p.extent(), values.size());
  float* const mean = values.data() + place.mean_offset;
  if (device.kind == Device::Kind::cpu) return shaped_as(p, mean, device);
  if (gradient_.size_bytes() == 0) gradient_ = Buffer(largest_mean_bytes_, device);
  copy_bytes(gradient_.data(), device, mean, Device{},
             static_cast<std::size_t>(p.extent()) * sizeof(float), stream_);
  return shaped_as(p, gradient_.as<float>(), device);
}

Tensor StepUpdate::find_mean_direction(ParameterState& state, const StepDecision& decision) {
  const Stopwatch watch;
  const Parameter& p = *state.parameter;
  will_change(p, Changing::state);
  const Tensor direction = shaped_as(p, direction_.as<float>(), direction_.device());
  find_direction(*state.group, mean_gradient(state, decision), trimmed(state.momentum, p),
                 direction, newton_schulz_[wire_index(state.group->newton_schulz_type)].get(),
                 stream_);
  times_.direction += watch.elapsed();
  return direction;
}

void StepUpdate::cast_mean(ParameterState& state, std::int64_t step, const StepDecision& decision) {
  const BallotSegment& segment = layout_.segment(state);
  if (!has_mean(state, decision)) {
    abstain(segment, *mean_ballot_);
    return;
  }
  const Tensor direction = find_mean_direction(state, decision);
  const Stopwatch watch;
  const CastOptions options{seed_, step, 0, 0.0};
  if (direction.device.kind == Device::Kind::cuda) {
    start_cast(direction, segment, options, nullptr, nullptr, *mean_ballot_, stream_);
    awaited_ballots_.push_back(&segment);
  } else {
    cast_ballot(direction, segment, options, {}, *mean_ballot_, stream_);
  }
  times_.pack += watch.elapsed();
}

void StepUpdate::apply_dense(ParameterState& state, const StepDecision& decision,
                             const TensorFactors& factors) {
  const Parameter& p = *state.parameter;
  const RateFactors rate{factors.decay, factors.step};
  const bool adamw = state.group->rule == Rule::adamw, usable = has_mean(state, decision);
  const Tensor direction = usable && !adamw ? find_mean_direction(state, decision) : Tensor{};
  const Stopwatch watch;
  std::uint64_t digest;
  if (!usable) {  // nobody had a usable gradient: no step
    digest = apply_decay(rate, p, stream_, later(p));
  } else if (adamw) {
    will_change(p, Changing::state);
    digest =
        apply_adamw(*state.group, mean_gradient(state, decision),
                    AdamCorrections{factors.first, factors.second}, factors.decay,
                    trimmed(state.momentum, p), trimmed(state.second, p), p, stream_, later(p));
    ++state.count;
  } else {
    digest = apply_direction(direction, rate, p, stream_, later(p));
  }
  take_digest(p, digest);
  times_.apply += watch.elapsed();
}

}  // namespace ballot
