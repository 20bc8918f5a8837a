#include "optim/sharding_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace ballot {
namespace {

// What the element-wise passes of an element cost, in operations: enough that matrices without
// Newton-Schulz are spread over the members too.
constexpr double kElementOperations = 16;

// A sum over members: some 100 us until all have heard of all; then each element of A is copied,
// sent, added and sent again.
constexpr double kSumOperations = 5e6;
constexpr double kSumElementOperations = 100;

double work_of(const ShardedMatrix& m, int parts) {
  const double elements = static_cast<double>(m.rows) * static_cast<double>(m.cols);
  return newton_schulz_operations(m.rows, m.cols, m.steps, parts) +
         kElementOperations * elements / parts +
         (parts > 1 ? gram_sum_operations(m.rows, m.cols, m.steps) : 0);
}

// Into how many parts each matrix goes -> the plan, longest first.
ShardingPlan assign(std::span<const ShardedMatrix> matrices, std::span<const int> cuts,
                    int members) {
  const std::size_t workers = static_cast<std::size_t>(members);
  ShardingPlan plan;
  plan.parts.resize(matrices.size());
  plan.operations.assign(workers, 0);
  plan.elements.assign(workers, 0);
  std::vector<std::size_t> order(matrices.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto work = [&](std::size_t i) { return work_of(matrices[i], cuts[i]); };
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return work(a) > work(b); });
  for (const std::size_t i : order) {
    const ShardedMatrix& m = matrices[i];
    const std::int64_t longer = std::max(m.rows, m.cols), shorter = std::min(m.rows, m.cols);
    plan.total += work_of(m, 1);
    // Parts of one matrix go to different members: the least busy ones.
    std::vector<std::size_t> free(workers);
    std::iota(free.begin(), free.end(), std::size_t{0});
    std::ranges::stable_sort(free, {}, [&](std::size_t w) { return plan.operations[w]; });
    free.resize(static_cast<std::size_t>(cuts[i]));
    std::ranges::sort(free);
    const std::int64_t units = (longer + m.alignment - 1) / m.alignment;
    std::int64_t begin = 0;
    for (std::size_t k = 0; k < free.size(); ++k) {
      const std::int64_t end =
          std::min(longer, units * static_cast<std::int64_t>(k + 1) / cuts[i] * m.alignment);
      plan.parts[i].push_back({static_cast<int>(free[k]), begin, end});
      plan.operations[free[k]] += work(i);
      plan.elements[free[k]] += (end - begin) * shorter;
      begin = end;
    }
  }
  return plan;
}

}  // namespace

double newton_schulz_operations(std::int64_t rows, std::int64_t cols, int steps, int parts) {
  const double side = static_cast<double>(std::min(rows, cols));
  const double longer = static_cast<double>(std::max(rows, cols)) / parts;
  return steps * (4 * side * side * longer + 2 * side * side * side);
}

double gram_sum_operations(std::int64_t rows, std::int64_t cols, int steps) {
  const double side = static_cast<double>(std::min(rows, cols));
  return kSumOperations + steps * (kSumOperations + kSumElementOperations * side * side);
}

double ShardingPlan::longest() const {
  return *std::ranges::max_element(operations);
}

std::string ShardingPlan::describe(std::span<const ShardedMatrix> matrices) const {
  std::string text;
  for (std::size_t member = 0; member < operations.size(); ++member) {
    int whole = 0, cut = 0;
    for (std::size_t i = 0; i < matrices.size(); ++i)
      for (const MatrixPart& part : parts[i])
        if (part.member == static_cast<int>(member)) ++(is_cut(i) ? cut : whole);
    text += fmt::format("member {}: {} matrices and {} parts, {:.3f} of the work, {} elements\n",
                        member, whole, cut, total > 0 ? operations[member] / total : 0,
                        elements[member]);
  }
  return text;
}

ShardingPlan plan_sharding(std::span<const ShardedMatrix> matrices, int members, bool may_cut) {
  require(members >= 1, "a plan for {} members", members);
  for (const ShardedMatrix& m : matrices)
    require(m.rows > 0 && m.cols > 0 && m.steps >= 0 && m.alignment > 0,
            "matrix {} ({}, {}), {} steps, alignment {}", m.name, m.rows, m.cols, m.steps,
            m.alignment);
  std::vector<int> cuts(matrices.size(), 1);
  ShardingPlan best = assign(matrices, cuts, members);
  if (!may_cut || members == 1 || matrices.empty()) return best;
  // One more cut for the matrix whose parts are largest, as long as that shortens the plan. A cut
  // may help only together with those of its equals (four equal matrices, eight members).
  const int patience = 2 * members;
  std::vector<int> tried = cuts;
  for (int without_gain = 0; without_gain < patience;) {
    std::size_t largest = matrices.size();
    for (std::size_t i = 0; i < matrices.size(); ++i) {
      const std::int64_t units =
          std::max(matrices[i].rows, matrices[i].cols) / matrices[i].alignment;
      if (!matrices[i].may_cut || tried[i] >= members || tried[i] >= units) continue;
      if (largest == matrices.size() ||
          work_of(matrices[i], tried[i]) > work_of(matrices[largest], tried[largest]))
        largest = i;
    }
    if (largest == matrices.size()) break;
    ++tried[largest];
    ShardingPlan plan = assign(matrices, tried, members);
    if (plan.longest() < 0.99 * best.longest()) {
      best = std::move(plan);
      without_gain = 0;
    } else {
      ++without_gain;
    }
  }
  return best;
}

}  // namespace ballot
