// `ballot status ADDRESS` and `ballot expel ADDRESS WORKER`: what an operator asks of a
// coordinator.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "launcher/commands.h"
#include "launcher/coordinator_flags.h"
#include "launcher/environment.h"
#include "launcher/units.h"
#include "runtime/coordinator/coordinator_client.h"

namespace ballot {
namespace {

struct OperatorFlags {
  std::string address, reason = "by an operator", timeout = "5s";
  std::int32_t worker = 0;
  bool json = false;
  CoordinatorAccess access;
};

CoordinatorAccess access_of(const OperatorFlags& flags) {
  CoordinatorAccess access = flags.access;
  access.secret = process_environment("BALLOT_TOKEN").value_or("");
  return access;
}

Duration patience_of(const OperatorFlags& flags) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(parse_duration("--timeout", flags.timeout)));
}

const char* state_of(const WorkerStatus& worker) {
  return worker.silent ? "silent" : to_string(worker.state);
}

double rate_of(const ServiceStatus& status, std::int32_t worker) {
  const auto found = status.rates.find(worker);
  return found == status.rates.end() ? 0 : found->second;
}

nlohmann::ordered_json json_of(const Position& position) {
  return {{"step", position.step}, {"digest", to_string(position.digest)}};
}

nlohmann::ordered_json json_of(const ServiceStatus& status) {
  const CoordinatorStatus& from = status.coordinator;
  nlohmann::ordered_json workers = nlohmann::ordered_json::array();
  for (const WorkerStatus& worker : from.workers) {
    nlohmann::ordered_json suspects = nlohmann::ordered_json::array();
    for (const Suspicion& suspicion : worker.suspects)
      suspects.push_back({{"worker", suspicion.worker}, {"reason", suspicion.reason}});
    workers.push_back(
        {{"worker", worker.identity.worker},
         {"incarnation", worker.identity.incarnation},
         {"address", worker.address},
         {"voter",
          worker.voter < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(worker.voter)},
         {"state", to_string(worker.state)},
         {"silent", worker.silent},
         {"seconds_since_pulse", seconds(worker.since_pulse)},
         {"held", json_of(worker.held)},
         {"durable", json_of(worker.durable)},
         {"steps_per_second", rate_of(status, worker.identity.worker)},
         {"agreement", worker.agreement < 0 ? nlohmann::ordered_json()
                                            : nlohmann::ordered_json(worker.agreement)},
         {"stage", worker.stage},
         {"suspects", suspects}});
  }
  nlohmann::ordered_json checkpoints = nlohmann::ordered_json::array();
  for (const CheckpointFact& fact : from.checkpoints)
    checkpoints.push_back(
        {{"position", json_of(fact.position)}, {"parameters", to_string(fact.parameters)}});
  nlohmann::ordered_json changes = nlohmann::ordered_json::array();
  for (const TermChange& change : status.changes)
    changes.push_back(
        {{"term", change.term}, {"reason", change.reason}, {"seconds_ago", change.seconds_ago}});
  return {{"run", status.run},
          {"version", status.version},
          {"store", status.store},
          {"seconds_up", status.seconds_up},
          {"leading", from.leading},
          {"term", from.term},
          {"start", json_of(from.start)},
          {"commit", json_of(from.commit)},
          {"head", from.head},
          {"steps", from.steps > 0 ? nlohmann::ordered_json(from.steps) : nlohmann::ordered_json()},
          {"steps_per_second", status.commit_rate},
          {"decision", from.decision},
          {"reason", from.reason},
          {"revision", from.revision},
          {"changes", changes},
          {"workers", workers},
          {"checkpoints", checkpoints},
          {"refusals", status.refusals}};
}

void print(const ServiceStatus& status) {
  const CoordinatorStatus& from = status.coordinator;
  fmt::print("run {}, coordinator up {} (ballot {}), {}\n", status.run,
             duration_text(status.seconds_up), status.version, status.store);
  if (from.term == 0)
    fmt::print("no term yet\n");
  else
    fmt::print("term {} from step {}; step {} is held, step {} committed{}, {:.2f} steps/s\n",
               from.term, from.start.step, from.head, from.commit.step,
               from.steps > 0 ? fmt::format(" of {}", from.steps) : "", status.commit_rate);
  fmt::print("{}{}{}{}\n", from.decision, from.reason.empty() ? "" : ": ", from.reason,
             from.leading ? "" : " (does not lead)");
  if (!from.workers.empty())
    fmt::print("\n{:>6} {:>4} {:>5} {:>8} {:>8} {:>8} {:>8} {:>7} {:>9}  {:<22} {}\n", "worker",
               "inc.", "voter", "state", "held", "durable", "steps/s", "agrees", "pulse", "address",
               "stage");
  for (const WorkerStatus& worker : from.workers) {
    fmt::print("{:>6} {:>4} {:>5} {:>8} {:>8} {:>8} {:>8.2f} {:>7} {:>9}  {:<22} {}\n",
               worker.identity.worker, worker.identity.incarnation,
               worker.voter < 0 ? "-" : std::to_string(worker.voter), state_of(worker),
               worker.held.step, worker.durable.step, rate_of(status, worker.identity.worker),
               worker.agreement < 0 ? "-" : fmt::format("{:.1f} %", 100 * worker.agreement),
               fmt::format("{:.1f} s", seconds(worker.since_pulse)), worker.address, worker.stage);
    for (const Suspicion& suspicion : worker.suspects)
      fmt::print("{:>6} suspects worker {}: {}\n", "", suspicion.worker, suspicion.reason);
  }
  if (!status.changes.empty()) fmt::print("\n");
  for (const TermChange& change : status.changes)
    fmt::print("term {} began {} ago: {}\n", change.term, duration_text(change.seconds_ago),
               change.reason);
  if (!status.refusals.empty()) {
    std::vector<std::string> counts;
    for (const auto& [why, count] : status.refusals)
      counts.push_back(fmt::format("{} {}", why, count));
    fmt::print("\nturned away: {}\n", fmt::join(counts, ", "));
  }
}

struct Answer {
  std::string address;
  ServiceStatus status;
};

// Of the first of the addresses that leads; else of the first that answers.
Answer ask_in_turn(const OperatorFlags& flags) {
  std::vector<Answer> answers;
  std::string silent;
  for (std::size_t at = 0; at <= flags.address.size();) {
    const std::size_t end = std::min(flags.address.find(',', at), flags.address.size());
    const std::string address = flags.address.substr(at, end - at);
    at = end + 1;
    try {
      answers.push_back({address, fetch_status(address, access_of(flags), patience_of(flags))});
      if (answers.back().status.coordinator.leading) return std::move(answers.back());
    } catch (const Timeout& error) {
      silent += (silent.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  if (answers.empty()) throw Timeout("{}", silent);
  return std::move(answers.front());
}

int show_status(const OperatorFlags& flags) {
  const ServiceStatus status = ask_in_turn(flags).status;
  if (flags.json)
    fmt::print("{}\n", json_of(status).dump());
  else
    print(status);
  return 0;
}

int expel(const OperatorFlags& flags) {
  const CoordinatorAccess access = access_of(flags);
  const auto [address, status] = ask_in_turn(flags);
  expel_worker(address, status.run, access, flags.worker, flags.reason, patience_of(flags));
  fmt::print("worker {} is not in the next term of run {}, nor in any until it is started anew\n",
             flags.worker, status.run);
  return 0;
}

void add_operator_flags(CLI::App& command, OperatorFlags& flags) {
  command
      .add_option("address", flags.address,
                  "where the coordinator listens; of several that stand by, the one that leads")
      ->required()
      ->type_name("HOST:PORT[,HOST:PORT...]");
  command.add_option("--timeout", flags.timeout, "for an answer")
      ->type_name("TIME")
      ->capture_default_str();
  add_access_flags(command, flags.access);
  command.add_option("--tls-name", flags.access.tls.name,
                     "whom the coordinator's certificate is for (default: its address)");
}

}  // namespace

void add_status(CLI::App& app, Action& action) {
  auto flags = std::make_shared<OperatorFlags>();
  CLI::App* status = app.add_subcommand(
      "status",
      "what a coordinator knows: workers, term, steps, rates, and what it waits for. Where it asks "
      "for a secret, that is BALLOT_TOKEN in the environment");
  add_operator_flags(*status, *flags);
  status->add_flag("--json", flags->json, "one JSON object with all of it");
  status->callback([&action, flags] { action = [flags] { return show_status(*flags); }; });

  CLI::App* expulsion = app.add_subcommand(
      "expel",
      "send a worker away: its process ends (exit code 5), and is let in again when it is started "
      "anew");
  add_operator_flags(*expulsion, *flags);
  expulsion->add_option("worker", flags->worker, "its number")
      ->required()
      ->check(CLI::Range(0, 4095));
  expulsion->add_option("--reason", flags->reason, "shown in logs and in the status")
      ->capture_default_str();
  expulsion->callback([&action, flags] { action = [flags] { return expel(*flags); }; });
}

}  // namespace ballot
