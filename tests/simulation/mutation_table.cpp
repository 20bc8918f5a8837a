// The table's rows, in the order of PROTOCOL's list.
#include "tests/simulation/mutation_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "tests/simulation/random.h"
#include "tests/simulation/world.h"

namespace ballot::sim {
namespace {

struct Mutation {
  const char* name;
  const char* meaning;
  bool ProtocolMutations::*flag;
};

constexpr Mutation kMutations[] = {
    {"no_promise", "a sealed worker goes on accepting and holding", &ProtocolMutations::no_promise},
    {"least_start", "the new term starts at the least report", &ProtocolMutations::least_start},
    {"longest_start", "... at the longest history, whatever its terms",
     &ProtocolMutations::longest_start},
    {"missing_chunk", "a step is applied with a chunk missing", &ProtocolMutations::missing_chunk},
    {"keep_chunks", "ballots and chunks of a term live on in the next",
     &ProtocolMutations::keep_chunks},
    {"accept_any_term", "frames of other terms and incarnations are used",
     &ProtocolMutations::accept_any_term},
    {"restart_in_place", "a restarted worker keeps its place in the term",
     &ProtocolMutations::restart_in_place},
    {"ballot_without_base", "a ballot is cast whatever it was computed on",
     &ProtocolMutations::ballot_without_base},
    {"decide_early", "an owner decides s without holding s-1", &ProtocolMutations::decide_early},
    {"cold_without_commit", "a cold start does not ask for the commit",
     &ProtocolMutations::cold_without_commit},
    {"cut_to_peer", "a journal is cut to a shorter peer's", &ProtocolMutations::cut_to_peer},
    {"unconditional_write", "the row is written whatever its revision",
     &ProtocolMutations::unconditional_write},
    {"speak_before_write", "a term is shown before its row is durable",
     &ProtocolMutations::speak_before_write},
    {"commit_one_disk", "commit is the greatest durable, not the least",
     &ProtocolMutations::commit_one_disk},
    {"commit_before_start", "durable counts before the term's start is reached",
     &ProtocolMutations::commit_before_start},
    {"bare_counter", "the ledger is its next counter alone", &ProtocolMutations::bare_counter},
    {"update_in_record", "the record holds the unvoted update, not the mean",
     &ProtocolMutations::update_in_record},
    {"publish_before_commit", "a checkpoint is published before its step is committed",
     &ProtocolMutations::publish_before_commit},
    {"publish_any_digest", "... although its writers' parameters differ",
     &ProtocolMutations::publish_any_digest},
    {"cut_behind_newest", "journals are cut behind the newest checkpoint, not the one before",
     &ProtocolMutations::cut_behind_newest},
    {"vote_past_end", "a worker goes on after the run's last step",
     &ProtocolMutations::vote_past_end},
    {"any_length", "a worker does not mind that the run has another last step",
     &ProtocolMutations::any_length},
    {"late_comer_waits", "who missed the end waits for records of it",
     &ProtocolMutations::late_comer_waits},
    {"rebuild_nobody", "replay judges nobody where there is no majority",
     &ProtocolMutations::rebuild_nobody},
    {"serve_provisional", "the last held step is served to joining workers",
     &ProtocolMutations::serve_provisional},
};

const Mutation& find(const std::string& name) {
  const auto* found =
      std::ranges::find(kMutations, name, [](const Mutation& m) { return std::string(m.name); });
  if (found == std::end(kMutations)) throw ConfigError("there is no mutation {}", name);
  return *found;
}

}  // namespace

std::vector<std::string> mutation_names() {
  std::vector<std::string> names;
  for (const Mutation& m : kMutations) names.emplace_back(m.name);
  return names;
}

std::vector<std::string> caught_mutations() {
  std::vector<std::string> names = mutation_names();
  std::erase_if(names, [](const std::string& n) { return n == "serve_provisional"; });
  return names;
}

Scenario joins_while_a_step_is_in_doubt(std::uint64_t seed) {
  Random random(seed);
  Scenario s;
  s.seed = seed;
  s.workers = 3;
  s.connections_end = false;  // so that the doubt lasts
  Fault owner;
  owner.kind = Fault::Kind::crash_at;
  owner.at = random.between(1500, 4000);
  owner.lasts = 2000;
  owner.point = Point::send_verdict;
  owner.count = 2;
  Fault join;
  join.kind = Fault::Kind::join;
  join.at = owner.at - random.between(0, 800);
  join.who = 3;
  Fault holder;
  holder.kind = Fault::Kind::crash;
  holder.at = owner.at + random.between(100, 1500);
  holder.lasts = 3000;
  holder.who = 1;
  s.faults = {owner, join, holder};
  return s;
}

Scenario mutated(const std::string& name, std::uint64_t seed) {
  Scenario scenario = random_scenario(seed);
  // Random faults alone need hundreds of seeds for these.
  if (name == "accept_any_term") add_lateness(scenario, seed);
  if (name == "commit_before_start") add_fork(scenario, seed);
  if (name == "publish_any_digest") add_flip(scenario, seed);
  if ((name == "vote_past_end" || name == "late_comer_waits") && scenario.steps == 0)
    add_end(scenario, seed);
  if (name == "any_length") add_two_lengths(scenario, seed);
  if (name == "rebuild_nobody") {
    scenario.workers = 2;
    add_flip(scenario, seed, 2);
  }
  if (name == "longest_start") {
    scenario = {};
    scenario.seed = 2821 + seed;
    add_old_history(scenario);
  }
  scenario.mutations.*find(name).flag = true;
  return scenario;
}

MutationResult try_mutation(const std::string& name, std::uint64_t first_seed, std::uint64_t most) {
  MutationResult result{name, find(name).meaning, {}, 0, {}};
  for (std::uint64_t seed = first_seed; seed < first_seed + most; ++seed) {
    ++result.seeds;
    const Outcome outcome = run(mutated(name, seed));
    if (!outcome.invariant) continue;
    result.invariant = outcome.invariant;
    result.broken = outcome.what;
    break;
  }
  return result;
}

std::vector<MutationResult> try_mutations(std::uint64_t first_seed, std::uint64_t most) {
  std::vector<MutationResult> results;
  for (const std::string& name : mutation_names())
    results.push_back(try_mutation(name, first_seed, most));
  return results;
}

std::string to_markdown(const std::vector<MutationResult>& results) {
  std::string text = "| mutation | caught by | seeds | what it said |\n|---|---|---|---|\n";
  for (const MutationResult& r : results)
    text += fmt::format("| `{}`: {} | {} | {} | {} |\n", r.name, r.meaning,
                        r.invariant.value_or("**not caught**"), r.seeds, r.broken);
  return text;
}

}  // namespace ballot::sim
