// Defaults and rate factors of the rules.

#include "optim/parameter_group.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ballot {
namespace {

TEST(ParameterGroup, DefaultsAreThePublishedConstants) {
  const ParameterGroup olion = default_group(Rule::olion), lion = default_group(Rule::lion);
  EXPECT_EQ(olion.beta1, 0.95);
  EXPECT_EQ(olion.beta2, 0.98);
  EXPECT_EQ(lion.beta1, 0.95);
  EXPECT_EQ(lion.beta2, 0.98);
  EXPECT_EQ(default_group(Rule::adamw).beta1, 0.9);
  EXPECT_EQ(default_group(Rule::adamw).beta2, 0.95);
  EXPECT_EQ(default_group(Rule::adamw).epsilon, 1e-8);
  EXPECT_EQ(default_group(Rule::muon).momentum, 0.95);
  EXPECT_EQ(default_group(Rule::sgd).momentum, 0.0);
}

TEST(ParameterGroup, SignRulesVoteAndDenseRulesNeedAMean) {
  for (const Rule rule : {Rule::olion, Rule::lion, Rule::signum}) {
    EXPECT_TRUE(is_sign_rule(rule));
    EXPECT_EQ(default_group(rule).reduce, Reduce::vote);
  }
  for (const Rule rule : {Rule::muon, Rule::adamw, Rule::sgd}) {
    EXPECT_FALSE(is_sign_rule(rule));
    EXPECT_EQ(default_group(rule).reduce, Reduce::mean_f32);
  }
}

TEST(ParameterGroup, StepIsTheRateTimesTheRulesConstant) {
  const auto step = [](Rule rule) {
    ParameterGroup group = default_group(rule);
    group.rate = 3e-3;
    return rate_factors(group, 0.5, 24, 100).step;
  };
  EXPECT_FLOAT_EQ(step(Rule::olion), 3e-4f);
  EXPECT_FLOAT_EQ(step(Rule::lion), 1.5e-3f);
  EXPECT_FLOAT_EQ(step(Rule::signum), 1.5e-3f);
  EXPECT_FLOAT_EQ(step(Rule::sgd), 1.5e-3f);
  EXPECT_FLOAT_EQ(step(Rule::adamw), 1.5e-3f);
  EXPECT_FLOAT_EQ(step(Rule::muon), 3e-3f);  // 0.2 sqrt(100) = 2
}

TEST(ParameterGroup, DecayIsTheProductRoundedOnceNeverOneMinusIt) {
  ParameterGroup group = default_group(Rule::olion);
  group.rate = 1e-8;
  group.weight_decay = 0.1;
  EXPECT_EQ(rate_factors(group, 1, 8, 8).decay, static_cast<float>(1e-8 * 0.1));
  EXPECT_EQ(1.0f - rate_factors(group, 1, 8, 8).decay, 1.0f);  // what writing 1 - lr wd would lose
}

TEST(ParameterGroup, NamesAreThoseOfTheRunFile) {
  EXPECT_STREQ(to_string(Rule::olion), "olion");
  EXPECT_STREQ(to_string(Reduce::mean_bf16), "mean-bf16");
}

}  // namespace
}  // namespace ballot
