// Random runs: BALLOT_SIMULATION_SEEDS says how many, from BALLOT_SIMULATION_FROM.
#include <fmt/format.h>

#include <cstdlib>

#include "core/error.h"
#include "tests/simulation/told.h"

namespace ballot::sim {
namespace {

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(Simulation, NoInvariantBreaksWhateverFails) {
  const std::uint64_t from = setting("BALLOT_SIMULATION_FROM", 1);
  const std::uint64_t seeds = setting("BALLOT_SIMULATION_SEEDS", 1000);
  Outcome all;
  for (std::uint64_t seed = from; seed < from + seeds; ++seed) {
    const Outcome one = expect_holds(random_scenario(seed));
    ASSERT_FALSE(one.invariant) << "seed " << seed;
    all.events += one.events;
    all.steps += one.steps;
    all.terms += one.terms;
    all.crashes += one.crashes;
    all.rewinds += one.rewinds;
  }
  fmt::print(
      "{} seeds: {} events, {} steps, {} terms, {} crashes, {} times back to where histories "
      "part\n",
      seeds, all.events, all.steps, all.terms, all.crashes, all.rewinds);
  // The faults did happen.
  EXPECT_GT(all.crashes, static_cast<std::int64_t>(seeds));
  EXPECT_GT(all.terms, static_cast<std::int64_t>(seeds));
  EXPECT_GT(all.rewinds, static_cast<std::int64_t>(seeds / 100));
}

// Parameters damaged after the last step, before the copy for its checkpoint (D39).
TEST(Simulation, ASeedThatOnceLeftTheLastCheckpointUnpublishedHolds) {
  EXPECT_FALSE(expect_holds(random_scenario(113966)).invariant);
}

TEST(Simulation, TheSameSeedIsTheSameRun) {
  for (const std::uint64_t seed : {3u, 21u, 29u}) {
    const Outcome one = run(random_scenario(seed), true), two = run(random_scenario(seed), true);
    EXPECT_EQ(one.events, two.events);
    EXPECT_EQ(one.trace, two.trace);
  }
}

TEST(Simulation, AFailureIsShrunkToTheFaultsThatItNeeds) {
  Scenario scenario;
  scenario.workers = 3;
  scenario.mutations.restart_in_place = true;
  for (int i = 0; i < 4; ++i) {
    Fault harmless;
    harmless.kind = Fault::Kind::doubles;
    harmless.at = 1000 * i;
    harmless.lasts = 200;
    harmless.rate = 0.2;
    scenario.faults.push_back(harmless);
  }
  Fault needed;
  needed.kind = Fault::Kind::crash;
  needed.at = 2500;
  needed.lasts = 300;
  needed.who = 1;
  scenario.faults.push_back(needed);
  while (!run(scenario).invariant) ASSERT_LT(++scenario.seed, 50u);
  const Scenario smallest = shrink(scenario, *run(scenario).invariant);
  ASSERT_EQ(smallest.faults.size(), 1u);
  EXPECT_EQ(smallest.faults[0].kind, Fault::Kind::crash);
  const std::string told = report(smallest, run(smallest, true));
  EXPECT_NE(told.find(fmt::format("seed {}: I", scenario.seed)), std::string::npos) << told;
  EXPECT_NE(told.find("worker 1 dies for 300 ms"), std::string::npos) << told;
}

}  // namespace
}  // namespace ballot::sim
