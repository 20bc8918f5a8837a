// `ballot bench vote`.
#include <CLI/CLI.hpp>
#include <memory>

#include "core/error.h"
#include "launcher/bench_commands.h"
#include "launcher/bench_vote.h"
#include "launcher/bench_vote_output.h"
#include "launcher/worker_transport.h"

namespace ballot {
namespace {

struct VoteFlags {
  TransportChoice transport;
  VoteBench bench;
  std::string elements, model, schedule = "sharded", ties = "coin", compare = "all", piece,
                               compare_elements;
  double patience_seconds = 120;
  bool json = false;
};

constexpr Schedule kSchedules[] = {Schedule::sharded, Schedule::gathered, Schedule::lanes,
                                   Schedule::hierarchical};

VoteBench read_flags(const VoteFlags& flags) {
  VoteBench bench = flags.bench;
  if (flags.elements.empty() == flags.model.empty())
    throw ConfigError("bench vote: expected either --elements or --model");
  bench.shapes =
      flags.elements.empty() ? model_shapes(flags.model) : flat_shapes(parse_count(flags.elements));
  bench.all_schedules = flags.schedule == "all";
  bench.schedules.clear();
  for (const Schedule schedule : kSchedules)
    if (bench.all_schedules || flags.schedule == to_string(schedule))
      bench.schedules.push_back(schedule);
  bench.ties = flags.ties == "coin" ? Ties::coin : Ties::hold;
  bench.compare = flags.compare == "none"   ? Compare::none
                  : flags.compare == "fp32" ? Compare::fp32
                                            : Compare::all;
  if (!flags.piece.empty()) bench.piece_elements = parse_count(flags.piece);
  if (!flags.compare_elements.empty()) bench.compare_elements = parse_count(flags.compare_elements);
  bench.patience =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(flags.patience_seconds));
  return bench;
}

int run_vote(const VoteFlags& flags) {
  const VoteBench bench = read_flags(flags);
  return run_on_transport(flags.transport, [&](Transport& transport) {
    const VoteBenchReport report = bench_vote(transport, bench);
    if (transport.rank() != 0) return 0;
    if (flags.json)
      print_vote_lines(transport, bench, report);
    else
      print_vote_table(transport, bench, report);
    return 0;
  });
}

}  // namespace

void add_bench_vote(CLI::App& bench, Action& action) {
  auto flags = std::make_shared<VoteFlags>();
  CLI::App* vote = bench.add_subcommand(
      "vote",
      "votes against the scalar tally, then their time beside all-reduces on the same wire");
  add_transport_flags(*vote, flags->transport);
  add_workers_flag(*vote, flags->transport);
  vote->add_option("--elements", flags->elements, "P, such as 64M");
  vote->add_option("--model", flags->model,
                   "the matrices of llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, llama-2-7b, "
                   "tinyllama-1.1b, smollm2-135m, gpt2, or of a folder's config.json");
  vote->add_option("--schedule", flags->schedule, "which messages make a vote")
      ->check(CLI::IsMember({"sharded", "gathered", "lanes", "hierarchical", "all"}))
      ->capture_default_str();
  vote->add_option("--members", flags->bench.members, "workers that cast one ballot together")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  vote->add_option("--node-size", flags->bench.node_size, "hierarchical: workers of one node")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  vote->add_option("--ties", flags->ties, "what decides a tie")
      ->check(CLI::IsMember({"coin", "hold"}))
      ->capture_default_str();
  vote->add_option("--piece-elements", flags->piece,
                   "elements that travel and are counted together, such as 4M (default: by size)");
  vote->add_option("--repeats", flags->bench.repeats, "votes that are timed")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  vote->add_option("--compare", flags->compare, "all-reduces beside the vote")
      ->check(CLI::IsMember({"none", "fp32", "all"}))
      ->capture_default_str();
  vote->add_option("--compare-repeats", flags->bench.compare_repeats,
                   "all-reduces of each kind that are timed")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  vote->add_option("--compare-elements", flags->compare_elements,
                   "reduce only so many elements and scale time and bytes to P (default: at most "
                   "128Mi)");
  vote->add_option("--patience", flags->patience_seconds,
                   "seconds to wait beyond ten times what the bytes need at the measured rate")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  vote->add_flag("--json", flags->json, "one JSON object per line");
  vote->callback([&action, flags] { action = [flags] { return run_vote(*flags); }; });
}

}  // namespace ballot
