// What tests do with a scenario: run it, and tell a broken invariant in full, shrunk.
#pragma once

#include <gtest/gtest.h>

#include "tests/simulation/world.h"

namespace ballot::sim {

inline Outcome expect_holds(const Scenario& scenario) {
  const Outcome outcome = run(scenario);
  if (!outcome.invariant) return outcome;
  const Scenario smallest = shrink(scenario, *outcome.invariant);
  ADD_FAILURE() << report(smallest, run(smallest, true));
  return outcome;
}

}  // namespace ballot::sim
