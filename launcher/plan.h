// Predicts a training step for a model, a cluster and every way of reducing: how long it takes,
// what of the network is exposed, what leaves a node; and says where voting does not pay.
//
// A step of one worker (all do the same):
//
//   forward and the backward of all micro-batches but the last, then per tensor in backward order
//     backward 4 m n T (products of inputs and weights), T tokens of the last micro-batch
//     vote:   momentum and checks 20 B an element, Newton-Schulz (rates.h), packing
//     mean:   checks and the contribution 16 B an element
//     -> the tensor is released to its collective
//   wait until the collectives are whole (timeline.h): what is exposed
//   update: vote: verdict applied. Mean: direction, Newton-Schulz, sign, applied; or AdamW, 28 B an
//   element.
//
// Forward and backward together are 6 x (hidden + head) + 12 x attention width x layers x half the
// length operations a token, two thirds of them backward. Vectors (gains, biases) are averaged in
// fp32 in every row and come last. Voters of G members average gradients in fp32 inside the voter
// tensor by tensor (reduce-scatter and all-gather, 2 (G-1)/G x 4 B an element on the local link)
// and share momentum, Newton-Schulz and packing: a G-th each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/cost_model.h"
#include "collectives/timeline.h"
#include "launcher/bench_shapes.h"
#include "launcher/rates.h"
#include "optim/parameter_group.h"

namespace ballot {

struct PlanInput {
  BenchShapes shapes;
  Cluster cluster;
  int members = 1;
  Ties ties = Ties::coin;
  std::int64_t tokens = 0;  // per worker and step
  std::int64_t micro_batches = 1;
  std::int64_t length = 256;  // of a sequence, for attention
  Rule rule = Rule::olion;    // of the vote and of the means beside it
  bool has_reducer = false;   // the transport sums: lanes are considered
  TimelineOptions timeline;
  Rates rates;
};

enum class RowKind { vote, other_estimator, mean, ideal };  // chosen among: votes

struct PlanRow {
  std::string name;
  RowKind kind = RowKind::vote;
  Schedule schedule = Schedule::sharded;  // of votes
  double bytes_per_worker = 0;            // sent a step
  double bytes_per_node = 0;              // that leave a node
  std::int64_t messages = 0;              // a worker sends
  double communication = 0;               // s: all of it alone, nothing hidden
  double compute = 0;                     // s: forward, backward, and what is done a tensor
  double exposed = 0;                     // s: waited for the network
  double update = 0;                      // s: afterwards
  double step = 0;                        // s
  double tokens_per_second = 0;           // all workers
};

struct Plan {
  std::vector<PlanRow> rows;
  std::size_t chosen = 0;  // the vote with the shortest step
  std::size_t mean = 0;    // our own mean with the shortest step
  std::size_t rival = 0;   // the mean with the shortest step, an ideal ring among them
  // A vote pays if its step is shorter than 0.98 of the rival's: what others' means could at best
  // be is not less than what they are.
  bool pays = false;
  std::string why;  // one sentence
  double speedup() const { return rows[rival].step / rows[chosen].step; }
};
inline constexpr double kPays = 0.98;

// Byte counts are made once; predictions for other links and batches are cheap.
class Planner {
 public:
  // ConfigError where numbers do not fit together.
  explicit Planner(PlanInput input);
  const PlanInput& input() const { return input_; }

  Plan plan() const { return plan(input_.cluster.link, input_.tokens); }
  Plan plan(const Link& link, std::int64_t tokens) const;
  // The bandwidth (bytes/s) from which on voting does not pay; none where it pays at 10 Tbit/s, 0
  // where it does not at 1 Mbit/s.
  std::optional<double> break_even() const;

 private:
  struct Way {  // of reducing
    std::string name;
    RowKind kind;
    Schedule schedule;
    Rule rule;
    DType wire;
    CollectiveCost cost;
  };
  void add_vote(Schedule schedule, Estimator estimator, int node_size);
  PlanRow predict(const Way& way, const Cluster& cluster, std::int64_t tokens) const;
  std::vector<ComputeTask> tasks(const Way& way, std::int64_t tokens) const;
  double update_seconds(const Way& way) const;
  double newton_schulz_seconds(const ParameterShape& shape, Rule rule) const;

  PlanInput input_;
  BallotLayout layout_;
  std::int64_t vectors_ = 0;  // elements that are averaged in every row
  std::vector<Way> ways_;
  CollectiveCost vector_cost_;
};

// The same plan at other numbers of workers: from the input's, doubled up to `largest`.
struct ScaledPlan {
  int workers;
  PlanRow vote, mean;
};
std::vector<ScaledPlan> extrapolate(const PlanInput& input, int largest);

}  // namespace ballot
