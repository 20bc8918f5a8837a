// What `ballot plan` prints: tables for people, one JSON object for programs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/plan.h"

namespace ballot {

// Speed of the vote against the fastest mean (rates x tokens).
struct Crossover {
  std::vector<double> bandwidths;             // bytes/s
  std::vector<std::int64_t> tokens;           // per worker and step
  std::vector<std::vector<double>> speedups;  // [tokens][bandwidth]
};
// 100 Mbit/s to 400 Gbit/s; a sixteenth to 16 times the planned tokens.
Crossover cross_over(const Planner& planner);

struct PlanReport {
  Plan plan;
  std::optional<double> break_even;
  std::vector<ScaledPlan> scaled;      // empty: not asked for
  std::optional<Crossover> crossover;  // none: not asked for
};

void print_plan(const PlanInput& input, const PlanReport& report);
std::string plan_json(const PlanInput& input, const PlanReport& report);

}  // namespace ballot
