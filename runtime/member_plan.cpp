#include "runtime/member_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/tensor_part.h"

namespace ballot {
namespace {

constexpr std::int64_t kRowsAlignment = 8;

ShardedMatrix to_matrix(const Parameter& parameter, const ParameterGroup& group) {
  const ParameterShape& shape = parameter.shape;
  const bool orthogonalizes = group.rule == Rule::olion && group.newton_schulz;
  ShardedMatrix matrix{shape.name, shape.rows, shape.cols,
                       orthogonalizes ? group.newton_schulz_steps : 0};
  // A row of blocks is whole words; within a row only whole blocks are.
  matrix.alignment = is_wide(shape) ? block_of_rows(parameter.row_stride) : kRowsAlignment;
  // Rows without a token abstain, and a part of the columns would not know which these are.
  matrix.may_cut = shape.kind != ParameterKind::embedding || !is_wide(shape);
  return matrix;
}

std::string describe_cuts(const ShardingPlan& plan, std::span<const ShardedMatrix> matrices) {
  std::string text;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    if (!plan.is_cut(i)) continue;
    const ShardedMatrix& matrix = matrices[i];
    text += fmt::format("{} ({}, {}) is cut by {}:", matrix.name, matrix.rows, matrix.cols,
                        matrix.rows <= matrix.cols ? "columns" : "rows");
    for (const MatrixPart& part : plan.parts[i])
      text += fmt::format(" {}-{} member {}{}", part.begin, part.end, part.member,
                          &part == &plan.parts[i].back() ? "\n" : ",");
  }
  return text;
}

}  // namespace

const MatrixPart* MemberPlan::part_of(int member, const Parameter& parameter) const {
  const std::vector<MatrixPart>& all = parts[static_cast<std::size_t>(parameter.index)];
  const auto found = std::ranges::find(all, member, &MatrixPart::member);
  return found == all.end() ? nullptr : &*found;
}

MemberPlan plan_members(const ParameterArena& arena, const std::array<ParameterGroup, 4>& groups,
                        int members, bool may_cut) {
  MemberPlan plan;
  plan.members = members;
  std::vector<ShardedMatrix> matrices;
  std::vector<std::size_t> of;
  for (const Parameter& parameter : arena.parameters()) {
    const ParameterGroup& group = groups[static_cast<std::size_t>(parameter.shape.kind)];
    plan.worker.push_back(MemberPlan::kNobody);
    if (group.reduce != Reduce::vote || parameter.shape.frozen) continue;
    of.push_back(plan.worker.size() - 1);
    matrices.push_back(to_matrix(parameter, group));
  }
  plan.work = plan_sharding(matrices, members, may_cut);
  plan.parts.resize(plan.worker.size());
  for (std::size_t i = 0; i < of.size(); ++i) {
    plan.parts[of[i]] = plan.work.parts[i];
    plan.worker[of[i]] =
        plan.work.is_cut(i) ? MemberPlan::kSeveral : plan.work.parts[i].front().member;
  }
  plan.description = plan.work.describe(matrices) + describe_cuts(plan.work, matrices);
  if (!plan.description.empty()) plan.description.pop_back();  // the last line's end
  return plan;
}

}  // namespace ballot
