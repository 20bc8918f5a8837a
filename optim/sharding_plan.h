// Who of a voter's members does Newton-Schulz on which matrix: a pure function of the shapes and
// the number of members, so that every member finds the same plan without a message.
//
// Longest processing time first (Graham 1969): matrices in falling order of work, each to the
// member with the least so far; at most 4/3 - 1/(3G) of the best plan, and within a few percent of
// total / G where there are many more matrices than members. A matrix so large that it alone would
// hold up the others is cut across its longer side among several members, who then share the sum of
// A = X X^T (newton_schulz.h); cut only where the plan's longest member gets shorter by it, since
// every part computes A A for itself, and the sums have their price.
//
// Momentum lies where the work is: a member holds that of its own matrices and parts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ballot {

// Operations of `steps` iterations on a matrix, and on one of k equal parts of it: with s <= l its
// sides, A costs 2 s^2 l, A A 2 s^3, the update 2 s^2 l; a part has l / k, but all of A A.
double newton_schulz_operations(std::int64_t rows, std::int64_t cols, int steps, int parts = 1);

// What a part of a cut matrix costs beside, in operations: a sum over members at the start and in
// every step, and the bytes of A in each. Of a link inside one machine, beside cores of some 50
// GFLOP/s.
double gram_sum_operations(std::int64_t rows, std::int64_t cols, int steps);

struct ShardedMatrix {
  std::string name;
  std::int64_t rows = 0, cols = 0;
  int steps = 0;  // Newton-Schulz iterations; 0: element-wise work only
  // Parts begin at multiples of it, in elements of the longer side: a ballot's block where columns
  // are cut, so that no block has two owners.
  std::int64_t alignment = 64;
  bool may_cut = true;
};

// [begin, end) of the longer side (columns if rows <= cols, else rows), done by one member.
struct MatrixPart {
  int member = 0;
  std::int64_t begin = 0, end = 0;
  std::int64_t count() const { return end - begin; }
};

struct ShardingPlan {
  std::vector<std::vector<MatrixPart>> parts;  // by matrix; one part: whole. Ascending, no holes
  std::vector<double> operations;              // by member
  std::vector<std::int64_t> elements;          // of momentum, by member
  double total = 0;                            // operations of all matrices, uncut

  double longest() const;
  // No plan's longest member is below this: total / G.
  double lower_bound() const { return total / static_cast<double>(operations.size()); }
  bool is_cut(std::size_t matrix) const { return parts[matrix].size() > 1; }
  // How much faster than one member doing all.
  double speed_up() const { return total / longest(); }
  std::string describe(std::span<const ShardedMatrix> matrices) const;  // a line a member
};

// `may_cut` false: whole matrices only (a slow link inside the voter).
ShardingPlan plan_sharding(std::span<const ShardedMatrix> matrices, int members,
                           bool may_cut = true);

}  // namespace ballot
