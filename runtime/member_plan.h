// Which member of a voter works on which voted tensor: holds its momentum, finds its direction and
// casts its part of the ballot. A pure function of shapes, groups and the number of members.
//
// Tensors go whole to one member, longest work first (optim/sharding_plan.h). What is averaged is
// no member's: every worker keeps it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/parameter_arena.h"
#include "optim/parameter_group.h"
#include "optim/sharding_plan.h"

namespace ballot {

struct MemberPlan {
  int members = 1;
  std::vector<int> worker;  // by parameter in arena order: a member, or -1
  ShardingPlan work;        // of the voted tensors, in arena order
  std::string description;  // a line a member

  bool works_on(int member, const Parameter& parameter) const {
    return worker[static_cast<std::size_t>(parameter.index)] == member;
  }
};

MemberPlan plan_members(const ParameterArena& arena, const std::array<ParameterGroup, 4>& groups,
                        int members);

}  // namespace ballot
