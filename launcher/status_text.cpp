#include "launcher/status_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "launcher/units.h"
#include "runtime/metrics.h"      // human_bytes
#include "runtime/report_text.h"  // plain_duration

namespace ballot {
namespace {

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

}  // namespace

std::optional<double> RunProgress::seconds_left() const {
  if (steps <= 0 || !(steps_per_second > 0) || step > steps) return std::nullopt;
  return static_cast<double>(steps - step) / steps_per_second;
}

std::vector<std::string> progress_parts(const RunProgress& progress) {
  std::vector<std::string> parts{progress.steps > 0
                                     ? fmt::format("step {} of {}", progress.step, progress.steps)
                                     : fmt::format("step {}", progress.step)};
  if (const auto& one = progress.recorded) {
    parts.push_back(one->loss ? fmt::format("loss {:.4f}", *one->loss) : "loss not finite");
    parts.push_back(fmt::format("{:.0f} tokens/s", one->tokens_per_second));
  }
  if (const auto left = progress.seconds_left(); left && progress.step < progress.steps)
    parts.push_back(plain_duration(*left < 100 ? std::round(*left) : *left) + " left");
  if (const auto& one = progress.recorded) {
    const auto sent = static_cast<double>(one->bytes_sent),
               fp32 = static_cast<double>(one->fp32_bytes);
    if (sent > 0)
      parts.push_back(fmt::format("sends {} a step, fp32 {} ({:.1f}x)", human_bytes(sent),
                                  human_bytes(fp32), fp32 / sent));
    if (one->agreement) parts.push_back(fmt::format("agreement {:.1f} %", 100 * *one->agreement));
    if (one->ties) parts.push_back(fmt::format("ties {:.1f} %", 100 * *one->ties));
  }
  return parts;
}

RunProgress progress_of(const ServiceStatus& status) {
  const CoordinatorStatus& from = status.coordinator;
  return {status.recorded ? std::max(status.recorded->step, from.commit.step) : from.commit.step,
          from.steps, status.commit_rate, status.recorded};
}

bool has_ended(const ServiceStatus& status) {
  const CoordinatorStatus& from = status.coordinator;
  return from.steps > 0 && from.commit.step >= from.steps;
}

std::string status_summary(const ServiceStatus& status) {
  const CoordinatorStatus& from = status.coordinator;
  const auto voting = std::ranges::count_if(
      from.workers, [](const WorkerStatus& worker) { return worker.voter >= 0 && !worker.silent; });
  return fmt::format("{}, {} workers vote{}{}",
                     fmt::join(progress_parts(progress_of(status)), ", "), voting,
                     from.reason.empty() ? "" : "; ", from.reason);
}

nlohmann::ordered_json recorded_json(const std::optional<RecordedStep>& recorded) {
  if (!recorded) return {};
  const auto maybe = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  return {{"step", recorded->step},
          {"loss", maybe(recorded->loss)},
          {"tokens_per_second", recorded->tokens_per_second},
          {"tokens_total", recorded->tokens_total},
          {"bytes_sent", recorded->bytes_sent},
          {"fp32_bytes", recorded->fp32_bytes},
          {"ties", maybe(recorded->ties)},
          {"agreement", maybe(recorded->agreement)}};
}

nlohmann::ordered_json status_json(const ServiceStatus& status) {
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
          {"seconds_left", progress_of(status).seconds_left()
                               ? nlohmann::ordered_json(*progress_of(status).seconds_left())
                               : nlohmann::ordered_json()},
          {"recorded", recorded_json(status.recorded)},
          {"decision", from.decision},
          {"reason", from.reason},
          {"revision", from.revision},
          {"changes", changes},
          {"workers", workers},
          {"checkpoints", checkpoints},
          {"refusals", status.refusals}};
}

std::vector<std::string> status_lines(const ServiceStatus& status) {
  std::vector<std::string> lines;
  const auto add = [&lines](std::string line) { lines.push_back(std::move(line)); };
  const CoordinatorStatus& from = status.coordinator;
  add(fmt::format("run {}, coordinator up {} (ballot {}), {}", status.run,
                  duration_text(status.seconds_up), status.version, status.store));
  if (from.term == 0)
    add(fmt::format("no term yet"));
  else
    add(fmt::format("term {} from step {}; step {} is held, step {} committed{}, {:.2f} steps/s",
                    from.term, from.start.step, from.head, from.commit.step,
                    from.steps > 0 ? fmt::format(" of {}", from.steps) : "", status.commit_rate));
  add(fmt::format("{}{}{}{}", from.decision, from.reason.empty() ? "" : ": ", from.reason,
                  from.leading ? "" : " (does not lead)"));
  if (status.recorded) add(fmt::format("{}", fmt::join(progress_parts(progress_of(status)), ", ")));
  if (!from.workers.empty()) {
    add("");
    add(fmt::format("{:>6} {:>4} {:>5} {:>8} {:>8} {:>8} {:>8} {:>7} {:>9}  {:<22} {}", "worker",
                    "inc.", "voter", "state", "held", "durable", "steps/s", "agrees", "pulse",
                    "address", "stage"));
  }
  for (const WorkerStatus& worker : from.workers) {
    add(fmt::format("{:>6} {:>4} {:>5} {:>8} {:>8} {:>8} {:>8.2f} {:>7} {:>9}  {:<22} {}",
                    worker.identity.worker, worker.identity.incarnation,
                    worker.voter < 0 ? "-" : std::to_string(worker.voter), state_of(worker),
                    worker.held.step, worker.durable.step, rate_of(status, worker.identity.worker),
                    worker.agreement < 0 ? "-" : fmt::format("{:.1f} %", 100 * worker.agreement),
                    fmt::format("{:.1f} s", seconds(worker.since_pulse)), worker.address,
                    worker.stage));
    for (const Suspicion& suspicion : worker.suspects)
      add(fmt::format("{:>6} suspects worker {}: {}", "", suspicion.worker, suspicion.reason));
  }
  if (!status.changes.empty()) add("");
  for (const TermChange& change : status.changes)
    add(fmt::format("term {} began {} ago: {}", change.term, duration_text(change.seconds_ago),
                    change.reason));
  if (!status.refusals.empty()) {
    std::vector<std::string> counts;
    for (const auto& [why, count] : status.refusals)
      counts.push_back(fmt::format("{} {}", why, count));
    add("");
    add(fmt::format("turned away: {}", fmt::join(counts, ", ")));
  }
  return lines;
}

}  // namespace ballot
