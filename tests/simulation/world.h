// The simulated world: workers and coordinators around the production cores, a network, a row
// store, disks, and one clock that jumps from event to event.
//
// Everything is decided by the scenario: the same one gives the same run, event by event.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/simulation/scenario.h"

namespace ballot::sim {

struct Outcome {
  std::optional<std::string> invariant;  // that was broken
  std::string what;
  Milliseconds when = 0;           // of the violation, or the end
  Milliseconds recovery = 0;       // from the end of the faults until all that I13 asks for
  Milliseconds longest_pause = 0;  // between two steps that are the furthest ever held
  std::int64_t events = 0;
  std::int64_t steps = 0;  // of the furthest history
  std::int64_t commits = 0, terms = 0;
  std::int64_t fetched_records = 0, rewinds = 0, crashes = 0;
  std::int64_t published = 0;           // checkpoints
  std::int64_t loaded_checkpoints = 0;  // from the shared folder, with nothing of its own
  std::int64_t rebuilds = 0;            // of parameters that an audit found wrong
  std::int64_t newcomer_rewinds = 0;    // of workers that were not there at the start
  std::vector<std::string> trace;
};

Outcome run(const Scenario& scenario, bool traced = false);

// Drops faults one by one, again and again, while the same invariant breaks.
Scenario shrink(const Scenario& failing, const std::string& invariant);

// Seed, faults and what broke; with the trace's last lines.
std::string report(const Scenario& scenario, const Outcome& outcome, std::size_t trace_lines = 60);

}  // namespace ballot::sim
