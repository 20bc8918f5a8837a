#include "launcher/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "launcher/units.h"

namespace ballot {
namespace {

// Bytes of memory an element costs in passes that are nothing but memory (plan.h).
constexpr double kDirectionBytes = 20, kContributionBytes = 16, kMeanDirectionBytes = 16,
                 kAdamwBytes = 28;

double elements(const ParameterShape& shape) {
  return static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
}

// Weights that a token is multiplied with: a tied embedding is also the head.
bool is_product(const ParameterShape& shape) {
  return shape.kind == ParameterKind::hidden_matrix || shape.kind == ParameterKind::head ||
         shape.tied;
}

// The width of attention where this matrix makes the queries, else 0.
double query_width(const ParameterShape& shape) {
  if (shape.name.ends_with("q_proj.weight")) return static_cast<double>(shape.rows);
  if (shape.name.ends_with("attn.c_attn.weight")) return static_cast<double>(shape.cols) / 3;
  return 0;
}

// Operations a token in forward; backward has twice as many.
double forward_flops(const ParameterShape& shape, std::int64_t length) {
  return (is_product(shape) ? 2 * elements(shape) : 0) +
         4 * query_width(shape) * 0.5 * static_cast<double>(length + 1);
}

void require_positive(const char* what, double value) {
  if (!(value > 0)) throw ConfigError("{} is {}, expected more than 0", what, value);
}

std::string mean_name(DType wire, Rule rule) {
  return fmt::format("{} mean, {}", wire == DType::f32 ? "fp32" : "bf16", to_string(rule));
}

}  // namespace

Planner::Planner(PlanInput input)
    : input_(std::move(input)),
      layout_(ballot_layout(input_.shapes)),
      vectors_(input_.shapes.all_elements - input_.shapes.voted_elements) {
  const Cluster& cluster = input_.cluster;
  require_positive("tokens", static_cast<double>(input_.tokens));
  require_positive("micro_batches", static_cast<double>(input_.micro_batches));
  require_positive("bandwidth", cluster.link.bandwidth);
  require_positive("local bandwidth", cluster.local.bandwidth);
  require_positive("compute rate", input_.rates.compute);
  if (!is_sign_rule(input_.rule))
    throw ConfigError("rule {} has no signs to vote on, expected olion, lion or signum",
                      to_string(input_.rule));
  if (cluster.workers < 2)
    throw ConfigError("workers = {}: expected at least 2, one worker has nobody to vote with",
                      cluster.workers);
  if (input_.shapes.voted.empty()) throw ConfigError("{} has no matrix", input_.shapes.name);

  const bool grouped = input_.members > 1;
  add_vote(Schedule::sharded, Estimator::majority, 1);
  if (!grouped) {
    add_vote(Schedule::gathered, Estimator::majority, 1);
    if (input_.has_reducer) add_vote(Schedule::lanes, Estimator::majority, 1);
    if (cluster.node_size > 1) {
      add_vote(Schedule::hierarchical, Estimator::majority, cluster.node_size);
      add_vote(Schedule::hierarchical, Estimator::majority_of_majorities, cluster.node_size);
    }
  }
  std::vector<std::int64_t> lengths;
  for (const BallotSegment& s : layout_.segments()) lengths.push_back(s.extent());
  for (const Rule rule : {input_.rule, Rule::adamw})
    for (const DType wire : {DType::bf16, DType::f32})
      ways_.push_back({mean_name(wire, rule), RowKind::mean, Schedule::sharded, rule, wire,
                       mean_cost(lengths, wire, cluster)});
  for (const DType wire : {DType::bf16, DType::f32})
    ways_.push_back({fmt::format("ideal {} ring, adamw", wire == DType::f32 ? "fp32" : "bf16"),
                     RowKind::ideal,
                     Schedule::sharded,
                     Rule::adamw,
                     wire,
                     {}});
  if (vectors_ > 0) {
    const std::int64_t all[] = {vectors_};
    vector_cost_ = mean_cost(all, DType::f32, cluster);
  }
}

void Planner::add_vote(Schedule schedule, Estimator estimator, int node_size) {
  VoteOptions options;
  options.ties = input_.ties;
  options.schedule = schedule;
  options.estimator = estimator;
  options.members = input_.members;
  options.node_size = node_size;
  std::string name = std::string(to_string(schedule)) + " vote";
  if (input_.members > 1) name += fmt::format(", voters of {}", input_.members);
  if (estimator == Estimator::majority_of_majorities) name = "majority of majorities";
  ways_.push_back({name,
                   estimator == Estimator::majority ? RowKind::vote : RowKind::other_estimator,
                   schedule, input_.rule, DType::f32, vote_cost(layout_, options, input_.cluster)});
}

double Planner::newton_schulz_seconds(const ParameterShape& shape, Rule rule) const {
  if (rule != Rule::olion || shape.kind != ParameterKind::hidden_matrix) return 0;
  return newton_schulz_flops(shape.rows, shape.cols) / input_.rates.newton_schulz;
}

std::vector<ComputeTask> Planner::tasks(const Way& way, std::int64_t tokens) const {
  const Rates& rates = input_.rates;
  const double last = static_cast<double>(tokens) / static_cast<double>(input_.micro_batches);
  const bool votes = way.kind == RowKind::vote || way.kind == RowKind::other_estimator;
  const double members = votes ? input_.members : 1;
  double forward = 0, tied_head = 0;
  for (const ParameterShape& shape : input_.shapes.voted) {
    forward += forward_flops(shape, input_.length);
    // The head's product comes first in backward though a tied table is final last.
    if (shape.tied) tied_head += 2 * forward_flops(shape, input_.length);
  }
  const double before_last = 3 * forward * (static_cast<double>(tokens) - last);
  std::vector<ComputeTask> tasks;
  tasks.push_back({.seconds = (before_last + (forward + tied_head) * last) / rates.compute});
  for (std::size_t i = 0; i < input_.shapes.voted.size(); ++i) {
    const ParameterShape& shape = input_.shapes.voted[i];
    ComputeTask task;
    if (!shape.tied) task.seconds = 2 * forward_flops(shape, input_.length) * last / rates.compute;
    if (votes) {
      const double direction = elements(shape) * kDirectionBytes / rates.vote.memory +
                               newton_schulz_seconds(shape, way.rule) +
                               elements(shape) / rates.pack;
      if (members > 1) {
        // The mean of the gradients, and the members' parts of the ballot to each other.
        task.local_bytes = (members - 1) / members * elements(shape) * (2 * 4 + 1.0 / 8);
        task.then_seconds = direction / members;
      } else {
        task.seconds += direction;
      }
    } else {
      task.seconds += elements(shape) * kContributionBytes / rates.vote.memory;
    }
    if (way.kind != RowKind::ideal) {
      task.collective = 0;
      task.segment = i;
    }
    tasks.push_back(task);
  }
  if (vectors_ > 0)
    tasks.push_back(
        {.seconds = static_cast<double>(vectors_) * kContributionBytes / rates.vote.memory,
         .collective = way.kind == RowKind::ideal ? 0 : 1});
  return tasks;
}

double Planner::update_seconds(const Way& way) const {
  const Rates& rates = input_.rates;
  const double voted = static_cast<double>(input_.shapes.voted_elements);
  double seconds = static_cast<double>(vectors_) * kAdamwBytes / rates.vote.memory;
  if (way.kind == RowKind::vote || way.kind == RowKind::other_estimator)
    return seconds + voted / rates.apply;
  if (way.rule == Rule::adamw) return seconds + voted * kAdamwBytes / rates.vote.memory;
  seconds += voted * (kMeanDirectionBytes / rates.vote.memory + 1 / rates.pack + 1 / rates.apply);
  for (const ParameterShape& shape : input_.shapes.voted)
    seconds += newton_schulz_seconds(shape, way.rule);
  return seconds;
}

PlanRow Planner::predict(const Way& way, const Cluster& cluster, std::int64_t tokens) const {
  PlanRow row;
  row.name = way.name;
  row.kind = way.kind;
  row.schedule = way.schedule;
  row.update = update_seconds(way);
  const VoteRates& rates = input_.rates.vote;
  const std::vector<ComputeTask> work = tasks(way, tokens);
  std::vector<const CollectiveCost*> collectives;
  if (way.kind != RowKind::ideal) collectives.push_back(&way.cost);
  if (vectors_ > 0) collectives.push_back(&vector_cost_);
  const Timeline timeline = simulate(work, collectives, cluster, rates, input_.timeline);
  row.compute = timeline.computed;
  row.exposed = timeline.exposed();
  row.bytes_per_worker = static_cast<double>(way.cost.bytes.total());
  row.bytes_per_node = way.cost.bytes_per_node;
  row.messages = way.cost.messages;
  if (way.kind == RowKind::ideal) {
    const double size = way.wire == DType::f32 ? 4 : 2;
    const RingCost ring =
        ideal_ring(size * static_cast<double>(input_.shapes.voted_elements), cluster);
    // At best all but what is left when backward ends is hidden: all of it once backward gives the
    // first gradients.
    const double window = input_.timeline.overlap ? timeline.computed - work.front().seconds : 0;
    row.communication = ring.seconds;
    row.exposed = std::max(row.exposed, ring.seconds - window);
    row.bytes_per_worker = row.bytes_per_node = ring.bytes_per_node;
    row.messages = 2 * (cluster.workers - 1);
  } else {
    row.communication = simulate_alone(way.cost, cluster, rates);
  }
  row.step = row.compute + row.exposed + row.update;
  row.tokens_per_second = static_cast<double>(tokens) * cluster.workers / row.step;
  return row;
}

Plan Planner::plan(const Link& link, std::int64_t tokens) const {
  Cluster cluster = input_.cluster;
  cluster.link = link;
  Plan plan;
  for (const Way& way : ways_) plan.rows.push_back(predict(way, cluster, tokens));
  const auto fastest = [&](RowKind kind) {
    std::size_t best = plan.rows.size();
    for (std::size_t i = 0; i < plan.rows.size(); ++i)
      if (plan.rows[i].kind == kind &&
          (best == plan.rows.size() || plan.rows[i].step < plan.rows[best].step))
        best = i;
    return best;
  };
  plan.chosen = fastest(RowKind::vote);
  plan.mean = fastest(RowKind::mean);
  const std::size_t ideal = fastest(RowKind::ideal);
  plan.rival = plan.rows[ideal].step < plan.rows[plan.mean].step ? ideal : plan.mean;
  const PlanRow& vote = plan.rows[plan.chosen];
  const PlanRow& mean = plan.rows[plan.rival];
  plan.pays = vote.step < kPays * mean.step;
  const std::string numbers = fmt::format(
      "a step of the {} takes {} ({} computing, {} waiting for {} to leave each node), of the {} "
      "{} "
      "({} computing, {} waiting for {}){}",
      vote.name, duration_text(vote.step), duration_text(vote.compute + vote.update),
      duration_text(vote.exposed), bytes_text(vote.bytes_per_node), mean.name,
      duration_text(mean.step), duration_text(mean.compute + mean.update),
      duration_text(mean.exposed), bytes_text(mean.bytes_per_node),
      plan.rival == plan.mean
          ? ""
          : fmt::format("; the best mean of our own, {}, takes {}", plan.rows[plan.mean].name,
                        duration_text(plan.rows[plan.mean].step)));
  plan.why = fmt::format("{} ({:.2f}x): {}", plan.pays ? "voting pays" : "voting does not pay here",
                         plan.speedup(), numbers);
  return plan;
}

std::optional<double> Planner::break_even() const {
  Link link = input_.cluster.link;
  const auto pays = [&](double bandwidth) {
    link.bandwidth = bandwidth;
    return plan(link, input_.tokens).pays;
  };
  double low = 1e6 / 8, high = 1e13 / 8;
  if (!pays(low)) return 0;
  if (pays(high)) return std::nullopt;
  while (high / low > 1.01) {
    const double middle = std::sqrt(low * high);
    (pays(middle) ? low : high) = middle;
  }
  return high;
}

std::vector<ScaledPlan> extrapolate(const PlanInput& input, int largest) {
  std::vector<ScaledPlan> plans;
  PlanInput scaled = input;
  for (std::int64_t workers = input.cluster.workers;; workers *= 2) {
    scaled.cluster.workers = static_cast<int>(workers);
    const Plan plan = Planner(scaled).plan();
    plans.push_back({scaled.cluster.workers, plan.rows[plan.chosen], plan.rows[plan.rival]});
    if (2 * workers > largest) break;
  }
  return plans;
}

}  // namespace ballot
