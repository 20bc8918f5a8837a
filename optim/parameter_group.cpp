// Each rule's defaults and rate factors.

#include "optim/parameter_group.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace ballot {

const char* to_string(Rule rule) {
  switch (rule) {
    case Rule::olion:
      return "olion";
    case Rule::lion:
      return "lion";
    case Rule::signum:
      return "signum";
    case Rule::muon:
      return "muon";
    case Rule::adamw:
      return "adamw";
    case Rule::sgd:
      return "sgd";
  }
  return "?";
}

const char* to_string(Reduce reduce) {
  switch (reduce) {
    case Reduce::vote:
      return "vote";
    case Reduce::mean_f32:
      return "mean-fp32";
    case Reduce::mean_bf16:
      return "mean-bf16";
  }
  return "?";
}

bool is_sign_rule(Rule rule) {
  return rule == Rule::olion || rule == Rule::lion || rule == Rule::signum;
}

ParameterGroup default_group(Rule rule) {
  ParameterGroup group;
  group.rule = rule;
  group.reduce = is_sign_rule(rule) ? Reduce::vote : Reduce::mean_f32;
  group.newton_schulz = rule == Rule::olion || rule == Rule::muon;
  if (rule == Rule::adamw) {
    group.beta1 = 0.9;
    group.beta2 = 0.95;
  }
  if (rule == Rule::sgd) group.momentum = 0;
  return group;
}

RateFactors rate_factors(const ParameterGroup& group, double factor, std::int64_t rows,
                         std::int64_t cols) {
  require(rows > 0 && cols > 0, "group {}: rate of a ({}, {}) tensor", group.name, rows, cols);
  double scale = 1;
  if (group.rule == Rule::olion) scale = 0.2;
  if (group.rule == Rule::muon) scale = 0.2 * std::sqrt(static_cast<double>(std::max(rows, cols)));
  const double rate = group.rate * factor;
  return {.decay = static_cast<float>(rate * group.weight_decay),
          .step = static_cast<float>(rate * scale)};
}

}  // namespace ballot
