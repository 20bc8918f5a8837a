// The simulation notices what it has to: every mutation breaks an invariant within so many seeds.
#include <gtest/gtest.h>

#include "tests/simulation/mutation_table.h"
#include "tests/simulation/world.h"

namespace ballot::sim {
namespace {

class Mutation : public testing::TestWithParam<std::string> {};

TEST_P(Mutation, IsCaughtWithinThreeHundredSeeds) {
  const MutationResult result = try_mutation(GetParam(), 1, 300);
  EXPECT_TRUE(result.invariant) << result.meaning << ": not caught";
}

INSTANTIATE_TEST_SUITE_P(Each, Mutation, testing::ValuesIn(caught_mutations()),
                         [](const auto& one) { return one.param; });

// Not unsafe, as PROTOCOL says: it costs. Whoever joins follows a step that is voted again, and has
// to load a checkpoint and fetch anew.
TEST(Mutations, ServingProvisionalStepsIsPaidByThoseWhoJoin) {
  std::int64_t without = 0, with = 0;
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    Scenario scenario = joins_while_a_step_is_in_doubt(seed);
    without += run(scenario).newcomer_rewinds;
    scenario.mutations.serve_provisional = true;
    const Outcome outcome = run(scenario);
    ASSERT_FALSE(outcome.invariant) << outcome.what;
    with += outcome.newcomer_rewinds;
  }
  EXPECT_EQ(without, 0);
  EXPECT_GT(with, 2);
}

}  // namespace
}  // namespace ballot::sim
