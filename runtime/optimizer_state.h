// What the rules remember between steps: one momentum per parameter, and AdamW's second moment.
// Frozen parameters have none, and no state.
//
// A momentum that follows local gradients (reduce = vote) is private to its voter. One that follows
// a mean is replicated: every worker holds the same bits. The two are saved apart.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "core/parameter_arena.h"
#include "optim/parameter_group.h"
#include "runtime/member_plan.h"
#include "runtime/tensor_part.h"

namespace ballot {

struct ParameterState {
  const Parameter* parameter = nullptr;
  const ParameterGroup* group = nullptr;
  bool is_private = false;  // voted: this voter's own
  TensorPart part;          // what this worker has of a private momentum: all, or its part
  OwnedTensor momentum;     // (rows, row_stride) of the group's momentum type; AdamW's first moment
  OwnedTensor second;       // (rows, row_stride) f32, AdamW only
  std::int64_t count = 0;   // AdamW's t: updates so far
};

// The momentum's matrix, without the padding columns that the owner's shape includes.
inline Tensor momentum_of(const ParameterState& state) {
  const Tensor& all = state.momentum.view();
  return matrix_of(state.part, all.data, all.type, all.device);
}

class OptimizerState {
 public:
  // `groups` by ParameterKind; both must outlive it. Replaying needs nobody's private momentum:
  // without, those tensors are empty.
  enum class Private { kept, none };
  OptimizerState(const ParameterArena& arena, const std::array<ParameterGroup, 4>& groups,
                 Private momentum = Private::kept);
  // A member of a voter: the private momentum of the tensors, and of the parts, it works on.
  OptimizerState(const ParameterArena& arena, const std::array<ParameterGroup, 4>& groups,
                 const MemberPlan& plan, int member);
  // Of what is trained, in arena order.
  std::vector<ParameterState>& states() { return states_; }
  const std::vector<ParameterState>& states() const { return states_; }
  ParameterState& of(const Parameter& parameter);
  std::int64_t trained_count() const;  // real elements of what is trained
  // Of the arena: those that are frozen too.
  std::size_t parameter_count() const { return place_.size(); }

 private:
  OptimizerState(const ParameterArena& arena, const std::array<ParameterGroup, 4>& groups,
                 const std::function<std::optional<TensorPart>(const Parameter&)>& keeps_private);
  std::vector<ParameterState> states_;
  std::vector<std::size_t> place_;  // in states_, by parameter; kFrozen: it has none
};

}  // namespace ballot
