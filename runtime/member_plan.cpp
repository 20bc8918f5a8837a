#include "runtime/member_plan.h"

namespace ballot {

MemberPlan plan_members(const ParameterArena& arena, const std::array<ParameterGroup, 4>& groups,
                        int members) {
  MemberPlan plan;
  plan.members = members;
  std::vector<ShardedMatrix> matrices;
  std::vector<std::size_t> of;
  for (const Parameter& parameter : arena.parameters()) {
    const ParameterGroup& group = groups[static_cast<std::size_t>(parameter.shape.kind)];
    plan.worker.push_back(-1);
    if (group.reduce != Reduce::vote) continue;
    const bool orthogonalizes = group.rule == Rule::olion && group.newton_schulz;
    of.push_back(plan.worker.size() - 1);
    matrices.push_back({parameter.shape.name, parameter.shape.rows, parameter.shape.cols,
                        orthogonalizes ? group.newton_schulz_steps : 0});
  }
  plan.work = plan_sharding(matrices, members, false);
  for (std::size_t i = 0; i < of.size(); ++i) plan.worker[of[i]] = plan.work.parts[i][0].member;
  plan.description = plan.work.describe(matrices);
  if (!plan.description.empty()) plan.description.pop_back();  // the last line's end
  return plan;
}

}  // namespace ballot
