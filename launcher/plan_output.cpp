#include "launcher/plan_output.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "launcher/units.h"

namespace ballot {
namespace {

void print_rows(const PlanInput& input, const Plan& plan) {
  fmt::print("{:<26} {:>11} {:>10} {:>11} {:>11} {:>10} {:>10} {:>12}\n", "", "leaves node",
             "messages", "net alone", "computing", "exposed", "step", "tokens/s");
  for (std::size_t i = 0; i < plan.rows.size(); ++i) {
    const PlanRow& row = plan.rows[i];
    const char* mark = i == plan.chosen ? " <- vote" : i == plan.rival ? " <- mean" : "";
    fmt::print("{:<26} {:>11} {:>10} {:>11} {:>11} {:>10} {:>10} {:>12.4g}{}\n", row.name,
               bytes_text(row.bytes_per_node), row.messages, duration_text(row.communication),
               duration_text(row.compute + row.update), duration_text(row.exposed),
               duration_text(row.step), row.tokens_per_second, mark);
  }
  if (input.shapes.all_elements > input.shapes.voted_elements)
    fmt::print("Every row also averages {} gains and biases in fp32.\n",
               input.shapes.all_elements - input.shapes.voted_elements);
}

void print_crossover(const Crossover& table) {
  fmt::print(
      "\nTimes that a step of the fastest vote goes into one of the fastest mean, an ideal ring "
      "included;\n. = voting does not pay\n{:>14}",
      "tokens/worker");
  for (const double bandwidth : table.bandwidths) fmt::print(" {:>11}", bandwidth_text(bandwidth));
  fmt::print("\n");
  for (std::size_t t = 0; t < table.tokens.size(); ++t) {
    fmt::print("{:>14}", table.tokens[t]);
    for (const double speedup : table.speedups[t])
      fmt::print(" {:>10.2f}{}", speedup, speedup * kPays > 1 ? " " : ".");
    fmt::print("\n");
  }
}

void print_scaled(const std::vector<ScaledPlan>& plans) {
  fmt::print("\n{:>8} {:<26} {:>11} {:>10} {:>10}   {:<20} {:>10}\n", "workers", "fastest vote",
             "leaves node", "exposed", "step", "fastest mean", "step");
  for (const ScaledPlan& p : plans)
    fmt::print("{:>8} {:<26} {:>11} {:>10} {:>10}   {:<20} {:>10}\n", p.workers, p.vote.name,
               bytes_text(p.vote.bytes_per_node), duration_text(p.vote.exposed),
               duration_text(p.vote.step), p.mean.name, duration_text(p.mean.step));
  fmt::print(
      "Assumed: every node can send at its full rate to any others at once (full bisection); all "
      "workers\nequally fast, no stragglers, no loss; latency the same between all pairs; every "
      "worker opens a\nconnection to every other. docs/plan.md says how far this has been held "
      "against measurements.\n");
}

nlohmann::ordered_json to_json(const PlanRow& row) {
  constexpr const char* kKinds[] = {"vote", "other estimator", "mean", "ideal"};
  nlohmann::ordered_json json = {{"name", row.name},
                                 {"kind", kKinds[static_cast<int>(row.kind)]},
                                 {"bytes_per_worker", row.bytes_per_worker},
                                 {"bytes_per_node", row.bytes_per_node},
                                 {"messages", row.messages},
                                 {"communication_seconds", row.communication},
                                 {"compute_seconds", row.compute},
                                 {"exposed_seconds", row.exposed},
                                 {"update_seconds", row.update},
                                 {"step_seconds", row.step},
                                 {"tokens_per_second", row.tokens_per_second}};
  if (row.kind == RowKind::vote) json["schedule"] = to_string(row.schedule);
  return json;
}

}  // namespace

Crossover cross_over(const Planner& planner) {
  Crossover table;
  for (const double gbit : {0.1, 0.5, 1.0, 5.0, 10.0, 25.0, 100.0, 400.0})
    table.bandwidths.push_back(gbit * 1e9 / 8);
  const std::int64_t planned = planner.input().tokens;
  for (const double factor : {1 / 16., 1 / 4., 1., 4., 16.})
    if (const auto tokens = static_cast<std::int64_t>(factor * static_cast<double>(planned));
        tokens > 0)
      table.tokens.push_back(tokens);
  Link link = planner.input().cluster.link;
  for (const std::int64_t tokens : table.tokens) {
    std::vector<double>& row = table.speedups.emplace_back();
    for (const double bandwidth : table.bandwidths) {
      link.bandwidth = bandwidth;
      row.push_back(planner.plan(link, tokens).speedup());
    }
  }
  return table;
}

void print_plan(const PlanInput& input, const PlanReport& report) {
  const Cluster& cluster = input.cluster;
  fmt::print(
      "{}: {} voted of {} parameters; {} workers, {} a node, voters of {}; {} and {} "
      "between nodes;\n{} tokens a worker and step; rule {}, ties {}; overlap {}\n",
      input.shapes.name, input.shapes.voted_elements, input.shapes.all_elements, cluster.workers,
      cluster.node_size, input.members, bandwidth_text(cluster.link.bandwidth),
      duration_text(cluster.link.latency), input.tokens, to_string(input.rule),
      input.ties == Ties::coin ? "coin" : "hold", input.timeline.overlap ? "on" : "off");
  fmt::print("A worker: {:.4g} GFLOP/s forward and backward, {:.4g} Newton-Schulz, memory {}\n\n",
             input.rates.compute / 1e9, input.rates.newton_schulz / 1e9,
             bytes_text(input.rates.vote.memory) + "/s");
  print_rows(input, report.plan);
  fmt::print("\n{}{}\n", static_cast<char>(std::toupper(report.plan.why[0])),
             report.plan.why.substr(1));
  if (!report.break_even)
    fmt::print("Voting pays at any rate up to 10 Tbit/s.\n");
  else if (*report.break_even == 0)
    fmt::print("Voting does not pay at any rate from 1 Mbit/s on.\n");
  else
    fmt::print("Voting pays below {} between nodes.\n", bandwidth_text(*report.break_even));
  if (report.crossover) print_crossover(*report.crossover);
  if (!report.scaled.empty()) print_scaled(report.scaled);
}

std::string plan_json(const PlanInput& input, const PlanReport& report) {
  const Cluster& cluster = input.cluster;
  nlohmann::ordered_json root = {{"model", input.shapes.name},
                                 {"parameters", input.shapes.all_elements},
                                 {"voted", input.shapes.voted_elements},
                                 {"workers", cluster.workers},
                                 {"node_size", cluster.node_size},
                                 {"members", input.members},
                                 {"tokens", input.tokens},
                                 {"rule", to_string(input.rule)},
                                 {"overlap", input.timeline.overlap},
                                 {"bandwidth", cluster.link.bandwidth},
                                 {"latency_seconds", cluster.link.latency},
                                 {"message_seconds", cluster.link.per_message}};
  root["rates"] = nlohmann::ordered_json::parse(to_json(input.rates));
  for (const PlanRow& row : report.plan.rows) root["rows"].push_back(to_json(row));
  root["vote"] = report.plan.rows[report.plan.chosen].name;
  root["schedule"] = to_string(report.plan.rows[report.plan.chosen].schedule);
  root["mean"] = report.plan.rows[report.plan.mean].name;
  root["rival"] = report.plan.rows[report.plan.rival].name;
  root["speedup"] = report.plan.speedup();
  root["pays"] = report.plan.pays;
  root["why"] = report.plan.why;
  // null: voting pays at every rate
  root["break_even_bandwidth"] =
      report.break_even ? nlohmann::ordered_json(*report.break_even) : nlohmann::ordered_json();
  if (report.crossover) {
    nlohmann::ordered_json& cells = root["crossover"];
    for (std::size_t t = 0; t < report.crossover->tokens.size(); ++t)
      for (std::size_t b = 0; b < report.crossover->bandwidths.size(); ++b)
        cells.push_back({{"tokens", report.crossover->tokens[t]},
                         {"bandwidth", report.crossover->bandwidths[b]},
                         {"speedup", report.crossover->speedups[t][b]}});
  }
  for (const ScaledPlan& p : report.scaled)
    root["scaled"].push_back(
        {{"workers", p.workers}, {"vote", to_json(p.vote)}, {"mean", to_json(p.mean)}});
  return root.dump();
}

}  // namespace ballot
