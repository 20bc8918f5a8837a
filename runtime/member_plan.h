// Which member of a voter works on which voted tensor: holds its momentum, finds its direction and
// casts its part of the ballot. A pure function of shapes, groups and the number of members.
//
// Tensors go whole to one member, longest work first; where that is asked for, a large one may be
// cut among several (optim/sharding_plan.h, runtime/tensor_part.h). What is averaged is no
// member's: every worker keeps it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/parameter_arena.h"
#include "optim/parameter_group.h"
#include "optim/sharding_plan.h"

namespace ballot {

struct MemberPlan {
  static constexpr int kNobody = -1, kSeveral = -2;

  int members = 1;
  std::vector<int> worker;  // by parameter in arena order: a member, kNobody or kSeveral
  std::vector<std::vector<MatrixPart>> parts;  // by parameter; one: whole; none: averaged
  ShardingPlan work;                           // of the voted tensors, in arena order
  std::string description;                     // a line a member, a line a cut tensor

  bool is_cut(const Parameter& parameter) const {
    return worker[static_cast<std::size_t>(parameter.index)] == kSeveral;
  }
  // What this member works on of it; null: nothing.
  const MatrixPart* part_of(int member, const Parameter& parameter) const;
  bool works_on(int member, const Parameter& parameter) const {
    return part_of(member, parameter) != nullptr;
  }
};

MemberPlan plan_members(const ParameterArena& arena, const std::array<ParameterGroup, 4>& groups,
                        int members, bool may_cut = false);

}  // namespace ballot
