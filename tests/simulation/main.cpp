// protocol_simulation: runs seeds of the simulation, tells a failing one in full, and tries the
// mutations.
//
//   protocol_simulation --seeds 1000 [--from 1]   the first failing seed, shrunk, with its trace
//   protocol_simulation --seed 7                  one seed, told
//   protocol_simulation --mutations [--seeds N]   the table of docs/protocol.md
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/simulation/mutation_table.h"
#include "tests/simulation/world.h"

namespace ballot::sim {
namespace {

struct Arguments {
  std::uint64_t from = 1, seeds = 1000;
  bool one = false, mutations = false, shrinks = true;
  std::string mutation;
};

std::uint64_t number(const std::string& text) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

int tell(const Scenario& scenario, bool shrinks) {
  const Outcome first = run(scenario);
  Scenario told = scenario;
  if (first.invariant && shrinks) told = shrink(scenario, *first.invariant);
  const Outcome outcome = run(told, true);
  fmt::print("{}", report(told, outcome, first.invariant ? 200 : 100'000));
  return outcome.invariant ? 1 : 0;
}

int main_of(const Arguments& a) {
  if (a.mutations) {
    fmt::print("{}", to_markdown(try_mutations(a.from, a.seeds)));
    return 0;
  }
  if (!a.mutation.empty()) {
    for (std::uint64_t seed = a.from; seed < a.from + a.seeds; ++seed) {
      const Scenario scenario = mutated(a.mutation, seed);
      if (run(scenario).invariant) return tell(scenario, a.shrinks);
    }
    fmt::print("{}: not caught by {} seeds\n", a.mutation, a.seeds);
    return 0;
  }
  if (a.one) return tell(random_scenario(a.from), a.shrinks);
  Milliseconds recovery = 0;
  std::int64_t events = 0, steps = 0, terms = 0, commits = 0, fetched = 0, rewinds = 0, crashes = 0,
               loaded = 0, published = 0, rebuilds = 0;
  for (std::uint64_t seed = a.from; seed < a.from + a.seeds; ++seed) {
    const Scenario scenario = random_scenario(seed);
    const Outcome outcome = run(scenario);
    if (outcome.invariant) return tell(scenario, a.shrinks);
    recovery = std::max(recovery, outcome.recovery);
    events += outcome.events;
    steps += outcome.steps;
    terms += outcome.terms;
    commits += outcome.commits;
    fetched += outcome.fetched_records;
    rewinds += outcome.rewinds;
    loaded += outcome.loaded_checkpoints;
    published += outcome.published;
    rebuilds += outcome.rebuilds;
    crashes += outcome.crashes;
  }
  fmt::print(
      "{} seeds from {}: no invariant broken. {} events, {} steps, {} terms, {} commits, {} "
      "records fetched, {} rewinds, {} checkpoints published, {} loaded, {} replicas rebuilt, {} "
      "crashes; after the faults at most {} "
      "ms until all went on\n",
      a.seeds, a.from, events, steps, terms, commits, fetched, rewinds, published, loaded, rebuilds,
      crashes, recovery);
  return 0;
}

}  // namespace
}  // namespace ballot::sim

int main(int argc, char** argv) {
  ballot::sim::Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string key = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::string(argv[++i]) : std::string(); };
    if (key == "--seeds") {
      a.seeds = ballot::sim::number(value());
    } else if (key == "--from") {
      a.from = ballot::sim::number(value());
    } else if (key == "--seed") {
      a.from = ballot::sim::number(value());
      a.one = true;
    } else if (key == "--mutations") {
      a.mutations = true;
    } else if (key == "--mutation") {
      a.mutation = value();
    } else if (key == "--as-is") {
      a.shrinks = false;
    } else {
      fmt::print(stderr,
                 "{}: expected --seeds N, --from N, --seed N, --mutations, --mutation NAME "
                 "or --as-is\n",
                 key);
      return 2;
    }
  }
  return ballot::sim::main_of(a);
}
