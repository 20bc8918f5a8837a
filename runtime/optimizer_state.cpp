#include "runtime/optimizer_state.h"

namespace ballot {

OptimizerState::OptimizerState(const ParameterArena& arena,
                               const std::array<ParameterGroup, 4>& groups, Private momentum)
    : OptimizerState(arena, groups,
                     [momentum](const Parameter&) { return momentum == Private::kept; }) {}

OptimizerState::OptimizerState(const ParameterArena& arena,
                               const std::array<ParameterGroup, 4>& groups, const MemberPlan& plan,
                               int member)
    : OptimizerState(arena, groups, [&plan, member](const Parameter& parameter) {
        return plan.works_on(member, parameter);
      }) {}

OptimizerState::OptimizerState(const ParameterArena& arena,
                               const std::array<ParameterGroup, 4>& groups,
                               const std::function<bool(const Parameter&)>& keeps_private) {
  states_.reserve(arena.parameters().size());
  for (const Parameter& parameter : arena.parameters()) {
    ParameterState state;
    state.parameter = &parameter;
    state.group = &groups[static_cast<std::size_t>(parameter.shape.kind)];
    state.is_private = state.group->reduce == Reduce::vote;
    const bool adamw = state.group->rule == Rule::adamw;
    if (!state.is_private || keeps_private(parameter))
      state.momentum = OwnedTensor(adamw ? DType::f32 : state.group->momentum_type,
                                   {parameter.shape.rows, parameter.row_stride}, arena.device());
    if (adamw)
      state.second =
          OwnedTensor(DType::f32, {parameter.shape.rows, parameter.row_stride}, arena.device());
    states_.push_back(std::move(state));
  }
}

}  // namespace ballot
