// Each mutation of docs/protocol.md with what the simulation makes of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/simulation/scenario.h"

namespace ballot::sim {

struct MutationResult {
  std::string name, meaning;
  std::optional<std::string> invariant;  // that caught it
  std::uint64_t seeds = 0;               // tried, the last one caught it
  std::string broken;                    // in the words of the invariant
};

std::vector<std::string> mutation_names();
// Without the one that breaks nothing (docs/protocol.md says why).
std::vector<std::string> caught_mutations();
// A worker joins while owners die and steps are voted again.
Scenario joins_while_a_step_is_in_doubt(std::uint64_t seed);
// The seed's random scenario with that mutation, and with the storm that it needs, if any.
Scenario mutated(const std::string& name, std::uint64_t seed);
MutationResult try_mutation(const std::string& name, std::uint64_t first_seed, std::uint64_t most);
std::vector<MutationResult> try_mutations(std::uint64_t first_seed, std::uint64_t most);
std::string to_markdown(const std::vector<MutationResult>& results);

}  // namespace ballot::sim
