// What Prometheus is told: the table of names, values that are known and those that are not, the
// endpoint over real sockets, target files; and that the docs and the dashboard speak of that
// table.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

#include "collectives/transport/network_address.h"
#include "core/error.h"
#include "core/file.h"
#include "core/version.h"
#include "runtime/watching/coordinator_watch.h"
#include "runtime/watching/metric_table.h"
#include "runtime/watching/worker_watch.h"
#include "tests/support/dashboard.h"
#include "tests/support/http_get.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;
using testing::UnorderedElementsAre;

constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();

// "name" or "name{label}" -> value, of what a source knows.
std::map<std::string, double> values_of(const std::vector<MetricSample>& samples) {
  std::map<std::string, double> values;
  for (const MetricSample& sample : samples) {
    const std::string name = entry_of(sample.metric).name;
    const std::string key = sample.label.empty() ? name : name + "{" + sample.label + "}";
    EXPECT_TRUE(values.emplace(key, sample.value).second) << key << " twice";
  }
  return values;
}

std::string scrape(const std::string& address, const std::string& path = "/metrics") {
  return test::http_get(std::stoi(address.substr(address.rfind(':') + 1)), path);
}

// The lines "name{labels} value" of an answer, without the exposer's own.
std::map<std::string, double> lines_of(const std::string& answer) {
  std::map<std::string, double> values;
  std::istringstream text(answer.substr(answer.find("\r\n\r\n") + 4));
  for (std::string line; std::getline(text, line);)
    if (line.starts_with("ballot_"))
      values[line.substr(0, line.rfind(' '))] = std::stod(line.substr(line.rfind(' ') + 1));
  return values;
}

TEST(MetricTable, NamesAreValidAndEachIsExplained) {
  std::set<std::string> names;
  const std::regex form("ballot_[a-z][a-z0-9]*(_[a-z0-9]+)*");
  for (const MetricEntry& entry : metric_table()) {
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name << " twice";
    EXPECT_TRUE(std::regex_match(entry.name, form)) << entry.name;
    const std::string name = entry.name, help = entry.help;
    EXPECT_EQ(name.ends_with("_total"), entry.kind == MetricKind::counter) << name;
    EXPECT_EQ(name.starts_with("ballot_coordinator_"), entry.scope == MetricScope::coordinator)
        << name;
    EXPECT_GT(help.size(), 10u) << name;
    EXPECT_TRUE(help.ends_with('.')) << name << ": " << help;
    for (const char* abbreviated : {"_ms", "_sec_", "_kb", "_percent", "_mb"})
      EXPECT_THAT(name, Not(HasSubstr(abbreviated)));
    EXPECT_TRUE(
        std::regex_match(entry.label == nullptr ? "none" : entry.label, std::regex("[a-z]+")))
        << name;
  }
}

TEST(MetricTable, StandsInTheDocumentation) {
  const std::string page = read_file(BALLOT_SOURCE_FOLDER "/docs/watching.md");
  std::string table;
  for (const MetricEntry& entry : metric_table())
    table +=
        fmt::format("| `{}` | {} | {} | {} | {} |\n", entry.name, to_string(entry.kind),
                    entry.label == nullptr ? "" : entry.label, to_string(entry.scope), entry.help);
  EXPECT_THAT(page, HasSubstr(table)) << "docs/watching.md should have these rows:\n" << table;
  const std::regex row("\n\\| `ballot_");
  const auto rows = std::sregex_iterator(page.begin(), page.end(), row);
  EXPECT_EQ(std::distance(rows, std::sregex_iterator()), std::ptrdiff_t{kMetrics});
}

TEST(MetricValues, WhatNobodyKnowsIsNotExported) {
  MetricValues values(4);
  EXPECT_THAT(values_of(values.collect()),
              ElementsAre(std::pair("ballot_build_info{" + std::string(version()) + "}", 1.0)));
  values.set(Metric::loss, 2.5);
  values.add(Metric::alarms, 0);
  values.set(Metric::agreement, 2, 0.75);
  auto known = values_of(values.collect());
  EXPECT_THAT(known, SizeIs(4));
  EXPECT_EQ(known["ballot_loss_nats"], 2.5);
  EXPECT_EQ(known["ballot_agreement_ratio{2}"], 0.75);
  EXPECT_TRUE(known.contains("ballot_voter_alarms_total"));
  values.set(Metric::loss, kNoNumber);
  values.set(Metric::learning_rate, std::numeric_limits<double>::infinity());
  values.set(Metric::agreement, 4, 0.5);  // there is no such voter
  values.forget(Metric::agreement);
  EXPECT_THAT(values_of(values.collect()), SizeIs(2));
}

TEST(MetricValues, CountersAddUpAndStepsFallIntoBuckets) {
  MetricValues values(1);
  for (const double seconds : {0.004, 0.005, 0.006, 1000.0}) values.observe_step(seconds);
  values.observe_step(kNoNumber);
  values.add(Metric::tokens, 100);
  values.add(Metric::tokens, 50);
  values.add(Metric::tokens, kNoNumber);
  bool seen = false;
  for (const MetricSample& sample : values.collect()) {
    if (sample.metric == Metric::tokens) {
      EXPECT_EQ(sample.value, 150);
    }
    if (sample.metric != Metric::step_seconds) continue;
    seen = true;
    EXPECT_EQ(sample.value, 1000.015);
    ASSERT_EQ(sample.counts.size(), kStepSecondsBounds.size() + 1);
    EXPECT_EQ(sample.counts[0], 2u);  // a bound belongs to its bucket
    EXPECT_EQ(sample.counts[1], 1u);
    EXPECT_EQ(sample.counts.back(), 1u);
  }
  EXPECT_TRUE(seen);
}

TEST(MetricValues, NothingIsLostWhileSomebodyLooks) {
  constexpr int kThreads = 4, kTimes = 20000;
  MetricValues values(1);
  std::atomic<bool> over{false};
  std::thread looks([&] {
    double last = 0;
    while (!over)
      for (const MetricSample& sample : values.collect())
        if (sample.metric == Metric::tokens) {
          EXPECT_GE(sample.value, last);
          last = sample.value;
        }
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < kTimes; ++i) {
        values.add(Metric::tokens, 3);
        values.observe_step(0.25);
      }
    });
  for (std::thread& thread : threads) thread.join();
  over = true;
  looks.join();
  for (const MetricSample& sample : values.collect()) {
    if (sample.metric == Metric::tokens) {
      EXPECT_EQ(sample.value, 3.0 * kThreads * kTimes);
    }
    if (sample.metric == Metric::step_seconds) {
      EXPECT_EQ(sample.value, 0.25 * kThreads * kTimes);
    }
  }
}

// A step's record of a job with three voters, every number another.
struct Example {
  VoteStatistics votes;
  StepMetrics metrics;
  Example() {
    votes.elements = 1000, votes.ties = 10, votes.unanimous = 300;
    votes.blocks = 50, votes.held_blocks = 5;
    votes.agreed = {60, 0, 90}, votes.compared = {100, 0, 100};
    StepMetrics& m = metrics;
    m.step = 7, m.loss = 3.5, m.rate = 0.01, m.tokens = 192, m.tokens_total = 1344, m.workers = 3;
    m.step_seconds = 1.5, m.data_seconds = 0.01, m.forward_seconds = 0.2, m.backward_seconds = 0.4;
    m.direction_seconds = 0.3, m.pack_seconds = 0.05, m.exposed_seconds = 0.25;
    m.hidden_seconds = 0.125, m.tally_seconds = 0.0625, m.apply_seconds = 0.1;
    m.audit_seconds = 0.03;
    m.traffic.bytes_sent = {1000, 200, 30};
    m.fp32_bytes = 32000, m.member_bytes = 0;
    m.votes = &votes;
    m.gradient_faults = 2, m.loss_faults = 1;
    m.slowest_voter = 2, m.slowest_seconds = 0.9;
    m.slow_stages = {{"fwd", 1, 0.21, 0.2}, {"a stage of later", 0, 1, 1}};
    m.journal = StepMetrics::Journal{4096, 0.02, 0.001, 3};
  }
};

TEST(WorkerWatch, AStepIsToldAsTheRecordHasIt) {
  const Example example;
  WorkerWatch watch("127.0.0.1:0", WorkerWatch::Record::fixed, 3);
  watch.begin(6, 100, 3, 3);
  watch.step(example.metrics);
  auto seen = lines_of(scrape(watch.address()));
  const std::map<std::string, double> expected = {
      {"ballot_step", 7},
      {"ballot_steps_planned", 100},
      {"ballot_loss_nats", 3.5},
      {"ballot_run_tokens", 1344},
      {"ballot_tokens_total", 192},
      {"ballot_workers", 3},
      {"ballot_tie_ratio", 0.01},
      {"ballot_unanimous_ratio", 0.3},
      {"ballot_held_block_ratio", 0.1},
      {"ballot_agreement_ratio{voter=\"0\"}", 0.6},
      {"ballot_agreement_ratio{voter=\"2\"}", 0.9},
      {"ballot_steps_total", 1},
      {"ballot_step_duration_seconds_sum", 1.5},
      {"ballot_step_duration_seconds_bucket{le=\"1\"}", 0},
      {"ballot_step_duration_seconds_bucket{le=\"2\"}", 1},
      {"ballot_step_duration_seconds_bucket{le=\"+Inf\"}", 1},
      {"ballot_step_duration_seconds_count", 1},
      {"ballot_stage_seconds_total{stage=\"forward\"}", 0.2},
      {"ballot_stage_seconds_total{stage=\"communication\"}", 0.25},
      {"ballot_stage_seconds_total{stage=\"audit\"}", 0.03},
      {"ballot_communication_hidden_seconds_total", 0.125},
      {"ballot_wire_sent_bytes_total{purpose=\"vote\"}", 1000},
      {"ballot_wire_sent_bytes_total{purpose=\"mean\"}", 200},
      {"ballot_wire_sent_bytes_total{purpose=\"control\"}", 30},
      {"ballot_fp32_allreduce_bytes_total", 32000},
      {"ballot_gradient_faults_total", 2},
      {"ballot_loss_faults_total", 1},
      {"ballot_replica_repairs_total", 0},
      {"ballot_slowest_worker", 2},
      {"ballot_stage_slowest_worker{stage=\"forward\"}", 1},
      {"ballot_stage_median_seconds{stage=\"forward\"}", 0.2},
      {"ballot_journal_lag_steps", 3},
      {"ballot_journal_written_bytes_total", 4096},
  };
  for (const auto& [name, value] : expected) {
    ASSERT_TRUE(seen.contains(name)) << name;
    EXPECT_NEAR(seen[name], value, 1e-12) << name;
  }
  // A voter that abstained everywhere agrees with nobody known; nothing went inside a voter; there
  // are no terms; no checkpoint and no evaluation has been heard of.
  for (const char* unknown :
       {"ballot_agreement_ratio{voter=\"1\"}", "ballot_wire_sent_bytes_total{purpose=\"member\"}",
        "ballot_term", "ballot_checkpoint_step", "ballot_checkpoint_failures_total",
        "ballot_held_out_loss_nats", "ballot_coordinator_term"})
    EXPECT_FALSE(seen.contains(unknown)) << unknown;
  watch.step(example.metrics);
  watch.evaluated(3.25);
  watch.checkpoint(5, 0.5, 1 << 20);
  seen = lines_of(scrape(watch.address()));
  EXPECT_EQ(seen["ballot_tokens_total"], 384);
  EXPECT_EQ(seen["ballot_steps_total"], 2);
  EXPECT_EQ(seen["ballot_held_out_loss_nats"], 3.25);
  EXPECT_EQ(seen["ballot_checkpoint_step"], 5);
  EXPECT_EQ(seen["ballot_checkpoint_size_bytes"], 1 << 20);
}

TEST(WorkerWatch, AnElasticRecordHasNoMadeUpZeroes) {
  Example example;
  WorkerWatch watch("127.0.0.1:0", WorkerWatch::Record::elastic, 1024);
  watch.begin(0, 100, 0, 0);
  watch.enter(4, 3, 3);
  watch.step(example.metrics, std::vector<std::int32_t>{1, 5, 9});
  auto seen = lines_of(scrape(watch.address()));
  EXPECT_EQ(seen["ballot_term"], 4);
  EXPECT_EQ(seen["ballot_agreement_ratio{voter=\"1\"}"], 0.6);
  EXPECT_EQ(seen["ballot_agreement_ratio{voter=\"9\"}"], 0.9);
  for (const auto& [name, value] : seen)
    for (const char* untold : {"purpose=\"mean\"", "purpose=\"control\"", "stage=\"audit\"",
                               "slowest", "hidden", "gradient_faults", "repairs"})
      EXPECT_THAT(name, Not(HasSubstr(untold)));
  watch.enter(5, 2, 2);  // agreement was with others
  watch.caught_up(8);
  seen = lines_of(scrape(watch.address()));
  EXPECT_EQ(seen["ballot_step"], 8);
  EXPECT_EQ(seen["ballot_workers"], 2);
  EXPECT_FALSE(seen.contains("ballot_agreement_ratio{voter=\"1\"}"));
}

TEST(WorkerWatch, OneWithoutARecordTellsItsStepsAlone) {
  WorkerWatch watch("127.0.0.1:0", WorkerWatch::Record::none, 1);
  watch.begin(3, 100, 0, 0);
  watch.caught_up(4);
  EXPECT_THAT(lines_of(scrape(watch.address())),
              UnorderedElementsAre(
                  testing::Key(HasSubstr("build_info")), std::pair("ballot_step", 4),
                  std::pair("ballot_steps_planned", 100), std::pair("ballot_steps_total", 1)));
}

TEST(WorkerWatch, ItsTargetIsThereAsLongAsItIs) {
  const TemporaryFolder folder;
  const std::string target = folder.file("prometheus/worker-3.json");
  {
    WorkerWatch watch("127.0.0.1:0", WorkerWatch::Record::fixed, 1);
    watch.announce(folder.path(), "worker-3", "a \"run\"", "3");
    const auto parsed = nlohmann::json::parse(read_file(target));
    ASSERT_THAT(parsed, SizeIs(1));
    EXPECT_THAT(parsed[0]["targets"], ElementsAre(watch.address()));
    EXPECT_EQ(parsed[0]["labels"],
              (nlohmann::json{{"run", "a \"run\""}, {"worker", "3"}, {"role", "worker"}}));
    int files = 0;
    for (const auto& file : std::filesystem::directory_iterator(folder.file("prometheus"))) {
      ++files;
      EXPECT_EQ(file.path(), target);
    }
    EXPECT_EQ(files, 1);
  }
  EXPECT_FALSE(std::filesystem::exists(target));
}

TEST(ScrapeTargets, OfMoreWorkersThanThereAreAreRemoved) {
  const TemporaryFolder folder;
  remove_scrape_targets_from(folder.path(), 0);  // there is not even a folder
  std::filesystem::create_directories(folder.file("prometheus"));
  const std::vector<std::string> names = {"worker-1.json",           "worker-2.json",
                                          "worker-12-member-1.json", "coordinator.json",
                                          "worker-x.json",           "other"};
  for (const std::string& name : names) write_file_synced(folder.file("prometheus/" + name), "[]");
  remove_scrape_targets_from(folder.path(), 2);
  std::set<std::string> left;
  for (const auto& file : std::filesystem::directory_iterator(folder.file("prometheus")))
    left.insert(file.path().filename().string());
  EXPECT_THAT(left,
              UnorderedElementsAre("worker-1.json", "coordinator.json", "worker-x.json", "other"));
}

std::string failure_of(const std::string& listen) {
  try {
    const WorkerWatch watch(listen, WorkerWatch::Record::fixed, 1);
    return "it listens";
  } catch (const ConfigError& failure) {
    return failure.what();
  }
}

TEST(MetricsEndpoint, RefusesByNameWhatItCannotListenAt) {
  const WorkerWatch first("127.0.0.1:0", WorkerWatch::Record::fixed, 1);
  EXPECT_THAT(failure_of(first.address()),
              testing::AllOf(HasSubstr("output.prometheus"), HasSubstr(first.address()),
                             HasSubstr("in use")));
  EXPECT_THAT(failure_of("127.0.0.1"), HasSubstr("output.prometheus"));
  EXPECT_THAT(failure_of("127.0.0.1:70000"), HasSubstr("expected host:port"));
  EXPECT_THAT(failure_of("no-such-host.invalid:0"), HasSubstr("no-such-host.invalid"));
  EXPECT_THAT(failure_of("192.0.2.1:0"), HasSubstr("192.0.2.1"));  // of no interface here
}

TEST(MetricsEndpoint, AnswersMetricsAndNothingElse) {
  const WorkerWatch watch("127.0.0.1:0", WorkerWatch::Record::fixed, 1);
  const std::string answer = scrape(watch.address());
  EXPECT_THAT(answer, HasSubstr(" 200 OK"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain"));
  for (const MetricEntry& entry : metric_table()) {
    if (answer.find(fmt::format("# TYPE {} ", entry.name)) == std::string::npos) continue;
    EXPECT_THAT(answer, HasSubstr(fmt::format("# HELP {} {}\n", entry.name, entry.help)));
  }
  for (const char* path : {"/", "/etc/passwd", "/../../../../etc/passwd", "/metric"})
    EXPECT_THAT(scrape(watch.address(), path), HasSubstr(" 404 ")) << path;
}

ServiceStatus status_of_a_run() {
  ServiceStatus status;
  status.version = "0.1.0";
  status.seconds_up = 12;
  status.refusals = {{"token", 3}};
  CoordinatorStatus& c = status.coordinator;
  c.leading = true;
  c.term = 4;
  c.commit = {40, {}};
  c.head = 42;
  c.steps = 100;
  c.checkpoints = {{{20, {}}, {}, {}, 0, 1}, {{30, {}}, {}, {}, 0, 1}};
  WorkerStatus one;
  one.identity = {7, 1};
  one.heard = true;
  one.state = WorkerState::voting;
  one.held = {42, {}};
  one.durable = {39, {}};
  one.since_pulse = std::chrono::milliseconds(250);
  one.agreement = 0.75;
  WorkerStatus silent;  // of the term, and not heard of since the coordinator began
  silent.identity = {9, 1};
  silent.silent = true;
  c.workers = {one, silent};
  return status;
}

TEST(CoordinatorMetrics, AreItsStatus) {
  auto seen = values_of(metrics_of(status_of_a_run()));
  const std::map<std::string, double> expected = {
      {"ballot_coordinator_leading", 1},
      {"ballot_coordinator_answering", 1},
      {"ballot_coordinator_uptime_seconds", 12},
      {"ballot_coordinator_term", 4},
      {"ballot_coordinator_commit_step", 40},
      {"ballot_coordinator_head_step", 42},
      {"ballot_coordinator_steps_planned", 100},
      {"ballot_coordinator_checkpoint_step", 30},
      {"ballot_coordinator_workers{voting}", 1},
      {"ballot_coordinator_workers{joining}", 0},
      {"ballot_coordinator_workers{unheard}", 1},
      {"ballot_coordinator_silent_workers", 1},
      {"ballot_coordinator_worker_held_step{7}", 42},
      {"ballot_coordinator_worker_durable_step{7}", 39},
      {"ballot_coordinator_worker_pulse_age_seconds{7}", 0.25},
      {"ballot_coordinator_worker_agreement_ratio{7}", 0.75},
      {"ballot_coordinator_refusals_total{token}", 3},
      {"ballot_coordinator_refusals_total{fenced}", 0},
  };
  for (const auto& [name, value] : expected) {
    ASSERT_TRUE(seen.contains(name)) << name;
    EXPECT_EQ(seen[name], value) << name;
  }
  for (const auto& [name, value] : seen) EXPECT_THAT(name, Not(HasSubstr("{9}")));
}

TEST(CoordinatorMetrics, OneThatDoesNotLeadSpeaksForNobody) {
  ServiceStatus status = status_of_a_run();
  status.coordinator.leading = false;
  const auto seen = values_of(metrics_of(status));
  EXPECT_EQ(seen.at("ballot_coordinator_leading"), 0);
  EXPECT_EQ(seen.at("ballot_coordinator_refusals_total{token}"), 3);
  for (const auto& [name, value] : seen)
    for (const char* others : {"term", "step", "workers", "worker_"})
      EXPECT_THAT(name, Not(HasSubstr(others)));
  status = status_of_a_run();
  status.coordinator.term = 0;  // before the first
  EXPECT_FALSE(values_of(metrics_of(status)).contains("ballot_coordinator_commit_step"));
}

TEST(CoordinatorWatch, SaysSoWhereNobodyAnswers) {
  const TemporaryFolder folder;
  std::function<void(const ServiceStatus*)> late;  // is called back after the scrape
  enum class Kind { at_once, gone, after } kind = Kind::at_once;
  const CoordinatorWatch watch(
      "127.0.0.1:0",
      [&](std::function<void(const ServiceStatus*)> reply) {
        const ServiceStatus status = status_of_a_run();
        if (kind == Kind::at_once) return reply(&status);
        if (kind == Kind::gone) return reply(nullptr);
        late = std::move(reply);
      },
      folder.path(), "coordinator", "a run", std::chrono::milliseconds(50));
  EXPECT_EQ(lines_of(scrape(watch.address()))["ballot_coordinator_term"], 4);
  const auto target = nlohmann::json::parse(read_file(folder.file("prometheus/coordinator.json")));
  EXPECT_EQ(target[0]["labels"], (nlohmann::json{{"run", "a run"}, {"role", "coordinator"}}));
  kind = Kind::gone;
  auto seen = lines_of(scrape(watch.address()));
  EXPECT_EQ(seen["ballot_coordinator_answering"], 0);
  EXPECT_FALSE(seen.contains("ballot_coordinator_term"));
  kind = Kind::after;
  seen = lines_of(scrape(watch.address()));
  EXPECT_EQ(seen["ballot_coordinator_answering"], 0);
  const ServiceStatus status = status_of_a_run();
  ASSERT_TRUE(late);
  late(&status);  // nobody waits for it any more
}

// --- the dashboard -----------------------------------------------------------------------------

const MetricEntry* find_metric(std::string name) {
  for (const MetricEntry& entry : metric_table()) {
    if (name == entry.name) return &entry;
    if (entry.kind != MetricKind::histogram) continue;
    for (const char* part : {"_bucket", "_sum", "_count"})
      if (name == std::string(entry.name) + part) return &entry;
  }
  return nullptr;
}

TEST(Dashboard, AsksForNothingThatIsNotExported) {
  const std::set<std::string> of_targets = {"run", "worker", "role", "instance"};
  const std::regex name("\\b[a-z]+_[a-z0-9_]*(?=\\{)|\\bup(?=\\{)");
  const std::regex by("by \\(([a-z, ]+)\\)");
  std::set<const MetricEntry*> shown;
  const auto queries = test::dashboard_queries();
  ASSERT_GT(queries.size(), 30u);
  for (const auto& query : queries) {
    const std::string& text = query.expression;
    std::set<std::string> labels = of_targets;
    int found = 0;
    for (auto at = std::sregex_iterator(text.begin(), text.end(), name);
         at != std::sregex_iterator(); ++at) {
      ++found;
      EXPECT_THAT(text.substr(static_cast<std::size_t>(at->position() + at->length())),
                  testing::StartsWith("{run=~\"$run\""))
          << text;
      if (at->str() == "up") continue;
      const MetricEntry* const metric = find_metric(at->str());
      ASSERT_NE(metric, nullptr) << query.panel << ": nobody exports " << at->str();
      shown.insert(metric);
      if (metric->label != nullptr) labels.insert(metric->label);
      if (metric->kind == MetricKind::histogram) labels.insert("le");
      const bool rated =
          std::regex_search(text, std::regex("(rate|increase)\\(" + at->str() + "\\{"));
      EXPECT_EQ(rated, metric->kind != MetricKind::gauge) << query.panel << ": " << text;
    }
    EXPECT_GT(found, 0) << text;
    for (auto at = std::sregex_iterator(text.begin(), text.end(), by); at != std::sregex_iterator();
         ++at) {
      std::istringstream parts((*at)[1].str());
      for (std::string label; parts >> label;) {
        if (label.ends_with(',')) label.pop_back();
        EXPECT_TRUE(labels.contains(label)) << query.panel << " groups by " << label;
      }
    }
  }
  EXPECT_GT(shown.size(), 30u);  // of them all, most
}

TEST(Dashboard, ItsPanelsHaveTheirDataSourceAndDoNotOverlap) {
  const nlohmann::json dashboard = test::read_dashboard();
  EXPECT_GE(dashboard["schemaVersion"], 36);
  std::set<std::string> variables;
  for (const auto& variable : dashboard["templating"]["list"]) variables.insert(variable["name"]);
  EXPECT_THAT(variables, UnorderedElementsAre("datasource", "run"));
  std::set<int> ids;
  std::vector<std::array<int, 4>> places;
  for (const auto& panel : dashboard["panels"]) {
    EXPECT_TRUE(ids.insert(panel["id"].get<int>()).second);
    const auto& grid = panel["gridPos"];
    const std::array<int, 4> place = {grid["x"], grid["y"],
                                      grid["x"].get<int>() + grid["w"].get<int>(),
                                      grid["y"].get<int>() + grid["h"].get<int>()};
    EXPECT_LE(place[2], 24) << panel["title"];
    for (const auto& other : places)
      EXPECT_FALSE(place[0] < other[2] && other[0] < place[2] && place[1] < other[3] &&
                   other[1] < place[3])
          << panel["title"] << " covers another";
    places.push_back(place);
    if (panel["type"] == "row") continue;
    EXPECT_EQ(panel["datasource"]["uid"], "${datasource}") << panel["title"];
    for (const auto& target : panel["targets"])
      EXPECT_EQ(target["datasource"]["uid"], "${datasource}") << panel["title"];
  }
}

}  // namespace
}  // namespace ballot
