// The stored trajectories: OLion, Lion, Muon, AdamW, and OLion by vote of three voters over
// loopback.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "collectives/transport/loopback_transport.h"
#include "tests/optim/golden.h"

namespace ballot {
namespace {

using namespace golden;

class Golden : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!present()) GTEST_SKIP() << kPath << " is absent (it comes with the project's test data)";
  }
};

std::vector<Outcome> run(const Trajectory& trajectory, int voters) {
  const SafetensorsReader file(kPath);
  std::vector<Outcome> outcomes(voters);
  run_loopback(voters, [&](Transport& transport) {
    outcomes[transport.rank()] = run_voter(file, trajectory, transport);
  });
  return outcomes;
}

TEST_P(Golden, OLionHasTheSignsAndTheWeights) {
  const Outcome outcome = run(alone(Rule::olion, GetParam()), 1)[0];
  EXPECT_EQ(outcome.other_sign, 0);
  EXPECT_LE(outcome.worst, 1e-6);
  EXPECT_LE(outcome.excepted, outcome.elements / 1000);
}

TEST_P(Golden, LionHasTheWeights) {
  const Outcome outcome = run(alone(Rule::lion, GetParam()), 1)[0];
  EXPECT_EQ(outcome.excepted, 0);
  EXPECT_LE(outcome.worst, 1e-6);
}

TEST_P(Golden, ThreeVotersElectTheVerdictsAndReachTheWeights) {
  const std::vector<Outcome> outcomes = run(of_three_voters(GetParam()), 3);
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.other_sign, 0);
    EXPECT_LE(outcome.worst, 1e-6);
    EXPECT_EQ(outcome.digest, outcomes[0].digest);
  }
}

TEST_P(Golden, MuonHasTheWeights) {
  EXPECT_LE(worst_of_dense(SafetensorsReader(kPath), Rule::muon, GetParam()), 1e-5);
}

TEST_P(Golden, AdamWHasTheWeights) {
  EXPECT_LE(worst_of_dense(SafetensorsReader(kPath), Rule::adamw, GetParam()), 1e-6);
}

// A rule with another constant misses these trajectories by far: what the tests above can see.
TEST_P(Golden, AnotherRuleMissesTheTrajectory) {
  Trajectory wrong = alone(Rule::olion, GetParam());
  wrong.rule = Rule::lion;
  EXPECT_GT(run(wrong, 1)[0].worst, 1e-3);
  wrong = alone(Rule::lion, GetParam());
  wrong.rule = Rule::signum;
  EXPECT_GT(run(wrong, 1)[0].worst, 1e-3);
}

// Of all elements of the vote's trajectories, at most one in a thousand may be too near to zero to
// judge.
TEST(GoldenVote, ExceptsAtMostOneInAThousand) {
  if (!present()) GTEST_SKIP() << kPath << " is absent (it comes with the project's test data)";
  std::int64_t elements = 0, excepted = 0;
  for (const Shape& shape : kShapes) {
    const Outcome outcome = run(of_three_voters(shape), 3)[0];
    elements += outcome.elements;
    excepted += outcome.excepted;
  }
  EXPECT_LE(1000 * excepted, elements);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Golden, testing::ValuesIn(kShapes),
                         [](const auto& shape) { return "Of" + shape.param.name(); });

}  // namespace
}  // namespace ballot
