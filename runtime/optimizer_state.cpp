#include "runtime/optimizer_state.h"

#include <limits>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::size_t kFrozen = std::numeric_limits<std::size_t>::max();

}  // namespace

OptimizerState::OptimizerState(const ParameterArena& arena,
                               const std::array<ParameterGroup, 4>& groups, Private momentum)
    : OptimizerState(arena, groups,
                     [momentum](const Parameter& parameter) -> std::optional<TensorPart> {
                       if (momentum == Private::none) return std::nullopt;
                       return all_of(parameter);
                     }) {}

OptimizerState::OptimizerState(const ParameterArena& arena,
                               const std::array<ParameterGroup, 4>& groups, const MemberPlan& plan,
                               int member)
    : OptimizerState(arena, groups,
                     [&plan, member](const Parameter& parameter) -> std::optional<TensorPart> {
                       const MatrixPart* const part = plan.part_of(member, parameter);
                       if (part == nullptr) return std::nullopt;
                       return part_of(parameter, *part);
                     }) {}

OptimizerState::OptimizerState(
    const ParameterArena& arena, const std::array<ParameterGroup, 4>& groups,
    const std::function<std::optional<TensorPart>(const Parameter&)>& keeps_private) {
  states_.reserve(arena.parameters().size());
  for (const Parameter& parameter : arena.parameters()) {
    place_.push_back(parameter.shape.frozen ? kFrozen : states_.size());
    if (parameter.shape.frozen) continue;
    ParameterState state;
    state.parameter = &parameter;
    state.group = &groups[static_cast<std::size_t>(parameter.shape.kind)];
    state.is_private = state.group->reduce == Reduce::vote;
    state.part = all_of(parameter);
    const bool adamw = state.group->rule == Rule::adamw;
    std::optional<TensorPart> part = state.part;
    if (state.is_private) part = keeps_private(parameter);
    if (part) {
      state.part = *part;
      state.momentum = OwnedTensor(adamw ? DType::f32 : state.group->momentum_type,
                                   {part->rows, part->row_stride}, arena.device());
    }
    if (adamw)
      state.second =
          OwnedTensor(DType::f32, {parameter.shape.rows, parameter.row_stride}, arena.device());
    states_.push_back(std::move(state));
  }
}

std::int64_t OptimizerState::trained_count() const {
  std::int64_t count = 0;
  for (const ParameterState& state : states_) count += state.parameter->count();
  return count;
}

ParameterState& OptimizerState::of(const Parameter& parameter) {
  const std::size_t place = place_[static_cast<std::size_t>(parameter.index)];
  require(place != kFrozen, "{} is frozen and has no optimizer state", parameter.shape.name);
  return states_[place];
}

}  // namespace ballot
