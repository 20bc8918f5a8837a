// `ballot plan`: what a step will cost before anybody pays it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "core/error.h"
#include "core/parallel.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "launcher/plan_output.h"
#include "launcher/units.h"
#include "models/published.h"

namespace ballot {
namespace {

struct PlanFlags {
  std::string model, elements, bandwidth, latency = "0.1ms", message_cost = "10us";
  std::string local_bandwidth = "25GB/s", local_latency = "10us", memory = "20GB/s", rates;
  std::string rule = "olion", ties = "coin";
  int workers = 0, members = 1, node_size = 1, threads = 0, extrapolate = 0;
  std::int64_t tokens = 0, micro_batches = 1, length = 256;
  double compute_gflops = 0, share = 1;
  bool measure = false, no_overlap = false, shared_core = false, sums = false, crossover = false,
       json = false;
};

Rates find_rates(const PlanFlags& flags, const BenchShapes& shapes) {
  if (flags.measure && !flags.rates.empty())
    throw ConfigError("plan: expected --measure or --rates, not both");
  Rates rates;
  if (flags.measure) {
    set_thread_count(flags.threads > 0 ? flags.threads : default_threads(1));
    Measurement what;
    what.voters = std::min(1024, flags.workers / flags.members);
    if (std::filesystem::is_directory(flags.model)) what.model_folder = flags.model;
    what.length = flags.length;
    what.batch = std::max<std::int64_t>(1, flags.tokens / flags.micro_batches / flags.length);
    rates = measure_rates(shapes, what);
  } else if (!flags.rates.empty()) {
    rates = read_rates(flags.rates);
  } else if (flags.compute_gflops > 0) {
    rates =
        rates_by_data_sheet(flags.compute_gflops * 1e9, parse_bandwidth("--memory", flags.memory));
  } else {
    throw ConfigError(
        "plan: nothing says how fast a worker computes: --measure, --rates FILE or "
        "--compute-gflops N");
  }
  if (flags.compute_gflops > 0) rates.compute = flags.compute_gflops * 1e9;
  return scaled(rates, flags.share);
}

PlanInput read_flags(const PlanFlags& flags) {
  if (flags.elements.empty() == flags.model.empty())
    throw ConfigError("plan: expected either --model or --elements");
  if (flags.workers % flags.members != 0)
    throw ConfigError("--members {}: {} workers cannot be cut into voters of {}", flags.members,
                      flags.workers, flags.members);
  PlanInput input;
  input.shapes =
      flags.elements.empty() ? model_shapes(flags.model) : flat_shapes(parse_count(flags.elements));
  input.cluster.workers = flags.workers;
  input.cluster.node_size = flags.node_size;
  input.cluster.link = {parse_bandwidth("--bandwidth", flags.bandwidth),
                        parse_duration("--latency", flags.latency),
                        parse_duration("--message-cost", flags.message_cost)};
  input.cluster.local = {parse_bandwidth("--local-bandwidth", flags.local_bandwidth),
                         parse_duration("--local-latency", flags.local_latency),
                         parse_duration("--message-cost", flags.message_cost)};
  input.members = flags.members;
  input.ties = flags.ties == "coin" ? Ties::coin : Ties::hold;
  input.tokens = flags.tokens;
  input.micro_batches = flags.micro_batches;
  input.length = flags.length;
  input.rule = flags.rule == "olion"  ? Rule::olion
               : flags.rule == "lion" ? Rule::lion
                                      : Rule::signum;
  input.has_reducer = flags.sums;
  input.timeline.overlap = !flags.no_overlap;
  input.timeline.shared_core = flags.shared_core;
  input.rates = find_rates(flags, input.shapes);
  return input;
}

int run_plan(const PlanFlags& flags) {
  const PlanInput input = read_flags(flags);
  const Planner planner(input);
  PlanReport report;
  report.plan = planner.plan();
  report.break_even = planner.break_even();
  if (flags.crossover) report.crossover = cross_over(planner);
  if (flags.extrapolate > 0) report.scaled = extrapolate(input, flags.extrapolate);
  if (flags.json)
    fmt::print("{}\n", plan_json(input, report));
  else
    print_plan(input, report);
  return 0;
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* plan = app.add_subcommand(
      "plan", "predicts the step time of votes and means on a cluster, and whether voting pays");
  const auto count = [plan](const char* name, auto& value, const char* help) {
    return plan->add_option(name, value, help)->check(CLI::PositiveNumber)->capture_default_str();
  };
  const auto text = [plan](const char* name, std::string& value, const char* help) {
    return plan->add_option(name, value, help)->capture_default_str();
  };
  std::string models = "a model folder, or one of";
  for (const std::string& name : published_models()) models += " " + name;
  plan->add_option("--model", flags->model, models);
  plan->add_option("--elements", flags->elements, "parameters without a model, such as 64M");
  count("--workers", flags->workers, "W x members")->required();
  count("--members", flags->members, "workers that cast one ballot together");
  count("--node-size", flags->node_size, "workers that share a node and its link");
  plan->add_option("--bandwidth", flags->bandwidth,
                   "payload a node's link carries one way (ballot bench link): 1gbit, 12.5GB/s")
      ->required();
  text("--latency", flags->latency, "one way, between nodes");
  text("--message-cost", flags->message_cost,
       "a message holds its sender up for, besides its bytes");
  text("--local-bandwidth", flags->local_bandwidth, "of a worker inside its node");
  text("--local-latency", flags->local_latency, "inside a node");
  count("--tokens", flags->tokens, "per worker and step")->required();
  count("--micro-batches", flags->micro_batches, "only the last one's backward hides anything");
  count("--length", flags->length, "tokens of a sequence");
  plan->add_option("--rule", flags->rule, "of the vote and of the means beside it")
      ->check(CLI::IsMember({"olion", "lion", "signum"}))
      ->capture_default_str();
  plan->add_option("--ties", flags->ties, "coin or hold")
      ->check(CLI::IsMember({"coin", "hold"}))
      ->capture_default_str();
  plan->add_option("--compute-gflops", flags->compute_gflops,
                   "of a worker in forward and backward; alone, the rest follows from --memory")
      ->check(CLI::PositiveNumber);
  text("--memory", flags->memory, "a worker's memory bandwidth, where nothing is measured");
  plan->add_flag("--measure", flags->measure, "measure this machine's rates, a few seconds");
  plan->add_option("--rates", flags->rates, "JSON file of rates (what --json prints under rates)");
  plan->add_option("--threads", flags->threads, "for --measure; 0: all cores");
  plan->add_option("--share", flags->share,
                   "of the measured machine that each worker has, where several share it")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  plan->add_flag("--no-overlap", flags->no_overlap, "everything leaves when backward has ended");
  plan->add_flag("--shared-core", flags->shared_core,
                 "counting and checking take their time from the same core as backward");
  plan->add_flag("--sums", flags->sums, "the transport sums (lanes)");
  plan->add_flag("--crossover", flags->crossover, "table of rates x batch sizes");
  plan->add_option("--extrapolate", flags->extrapolate, "also for twice the workers, up to so many")
      ->check(CLI::Range(2, 1024));
  plan->add_flag("--json", flags->json, "one JSON object");
  plan->callback([&action, flags] { action = [flags] { return run_plan(*flags); }; });
}

}  // namespace ballot
