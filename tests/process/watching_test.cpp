// A run as those see it who look from elsewhere: a real Prometheus finds its processes by their
// target files and answers the dashboard's queries with what metrics.jsonl says.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

#include "tests/process/small_run.h"
#include "tests/support/dashboard.h"
#include "tests/support/free_port.h"
#include "tests/support/prometheus_process.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using test::PrometheusProcess;
using testing::AllOf;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

constexpr int kConfiguration = 2, kRetry = 4;  // core/error.h

class Watching : public SmallRun {
 protected:
  // deploy/prometheus.yml, for this run and with less patience.
  std::string configuration() const {
    std::ostringstream text;
    text << std::ifstream(BALLOT_SOURCE_FOLDER "/deploy/prometheus.yml").rdbuf();
    std::string result = text.str();
    for (const auto& [example, own] :
         std::map<std::string, std::string>{{"../runs/first/prometheus/", file("out/prometheus/")},
                                            {"scrape_interval: 5s", "scrape_interval: 500ms"},
                                            {"refresh_interval: 15s", "refresh_interval: 1s"}}) {
      const std::size_t at = result.find(example);
      EXPECT_NE(at, std::string::npos) << "deploy/prometheus.yml has no " << example;
      if (at != std::string::npos) result.replace(at, example.size(), own);
    }
    return result;
  }
  std::set<std::string> targets() const {
    std::set<std::string> names;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(file("out/prometheus"), none))
      if (entry.path().extension() == ".json") names.insert(entry.path().filename().string());
    return names;
  }
  bool has_targets(const std::set<std::string>& names) const {
    return within(60s, [&] { return std::ranges::includes(targets(), names); });
  }
  // Of the queries' rates: a window that scrapes do not fill yet makes a rate too small.
  static constexpr std::chrono::seconds kRateWindow{10};
  static std::string query_of(const std::string& panel, const std::string& legend) {
    return test::dashboard_query(panel, legend, "out", fmt::format("{}s", kRateWindow.count()));
  }
  // The one value that a query of the dashboard has; NaN where it has none (yet).
  double ask(const std::string& panel, const std::string& legend = "") const {
    const nlohmann::json result = prometheus_->query(query_of(panel, legend));
    return result.size() == 1 ? std::stod(result[0]["value"][1].get<std::string>()) : NAN;
  }
  bool answers(const std::string& panel, const std::string& legend,
               const std::function<bool(double)>& holds) const {
    return within(60s, [&] {
      const double value = ask(panel, legend);
      return !std::isnan(value) && holds(value);
    });
  }
  // By the value of a label.
  std::map<std::string, double> ask_by(const std::string& label, const std::string& panel,
                                       const std::string& legend) const {
    std::map<std::string, double> values;
    for (const auto& one : prometheus_->query(query_of(panel, legend)))
      values[one["metric"].value(label, "")] = std::stod(one["value"][1].get<std::string>());
    return values;
  }
  // Whether a line of the record has this very value: what Prometheus says was true of a step.
  void expect_of_a_step(double value, const std::string& name) const {
    const auto lines = metrics("out", "step");
    EXPECT_TRUE(std::ranges::any_of(lines,
                                    [&](const nlohmann::json& line) {
                                      return line.contains(name) && line[name].is_number() &&
                                             std::abs(line[name].get<double>() - value) <=
                                                 1e-12 * std::abs(value);
                                    }))
        << name << " = " << value << " is of none of the " << lines.size() << " steps";
  }
  // The sum of a value over all steps, divided by that of another.
  double ratio(const std::string& name, const std::string& other = "") const {
    double sum = 0, others = 0;
    for (const auto& line : metrics("out", "step"))
      sum += line[name].get<double>(), others += other.empty() ? 1 : line[other].get<double>();
    return sum / others;
  }

  std::unique_ptr<PrometheusProcess> prometheus_;
  std::vector<std::string> settings_{"train.steps=1000000", "train.checkpoint_every=20",
                                     "output.prometheus=127.0.0.1:0"};
};

TEST_F(Watching, AJobIsSeenAsItsRecordTellsIt) {
  Command job(launch(3, "out", settings_), file(""));
  ASSERT_TRUE(has_targets({"worker-0.json", "worker-1.json", "worker-2.json"})) << job.output();
  prometheus_ = std::make_unique<PrometheusProcess>(configuration());

  // Values of one step.
  ASSERT_TRUE(answers("Step", "{{run}}", [](double step) { return step >= 30; }))
      << job.output() << prometheus_->log();
  const double loss = ask("Loss", "training"), ties = ask("Ties, unanimity, held blocks", "tied"),
               unanimous = ask("Ties, unanimity, held blocks", "unanimous");
  EXPECT_EQ(ask("Workers"), 3);
  // A scrape that was late counts as one, until the next.
  EXPECT_TRUE(answers("Processes not reached", "", [](double count) { return count == 0; }));
  EXPECT_THAT(ask_by("voter", "Agreement by voter", ""),
              UnorderedElementsAre(testing::Key("0"), testing::Key("1"), testing::Key("2")));

  // Rates, over so many steps that one, seen half done by a scrape, is a small part of them, and
  // over scrapes that fill the queries' window however fast the steps are.
  const double then = ask("Step", "{{run}}");
  std::this_thread::sleep_for(kRateWindow + 2s);
  ASSERT_TRUE(answers("Step", "{{run}}", [&](double step) { return step >= then + 40; }));
  ASSERT_TRUE(answers("Tokens per second", "", [](double rate) { return rate > 0; }));
  ASSERT_TRUE(answers("Bytes sent per step and worker", "all-reduce", [](double) { return true; }));
  const double tokens_per_second = ask("Tokens per second"), left = ask("Time left"),
               fewer = ask("Times fewer bytes than fp32"),
               fp32 = ask("Bytes sent per step and worker", "all-reduce"),
               median = ask("Step time", "median"), rest = ask("Step time by stage", "rest");
  const std::map<std::string, double> stages = ask_by("stage", "Step time by stage", "{{stage}}"),
                                      bytes = ask_by("purpose", "Bytes sent per step and worker",
                                                     "{{purpose}}");
  ASSERT_TRUE(answers("Steps since the last checkpoint", "", [](double) { return true; }));

  job.send(SIGTERM);
  ASSERT_EQ(job.wait(60s).exit_code, kRetry) << job.output();
  EXPECT_THAT(targets(), testing::IsEmpty());  // ended in order

  expect_of_a_step(loss, "loss_metrics/global_avg_loss");
  expect_of_a_step(ties, "vote/tie");
  expect_of_a_step(unanimous, "vote/unanimous");
  // Bytes of a step are always the same; of time, the order is right. 3 workers x 2 sequences x 32.
  EXPECT_NEAR(bytes.at("vote"), ratio("comm/vote_bytes_tx"), 0.2 * bytes.at("vote"));
  EXPECT_NEAR(bytes.at("mean"), ratio("comm/mean_bytes_tx"), 0.2 * bytes.at("mean"));
  EXPECT_NEAR(fp32, ratio("comm/fp32_allreduce_bytes"), 0.2 * fp32);
  EXPECT_NEAR(fewer, ratio("comm/fp32_allreduce_bytes", "comm/wire_bytes_tx"), 0.2 * fewer);
  const double seconds = ratio("time_metrics/end_to_end(s)");
  EXPECT_GT(tokens_per_second, 192 / seconds / 20);
  EXPECT_LT(tokens_per_second, 192 / seconds * 20);
  EXPECT_GT(left, 1e6 * seconds / 20);
  EXPECT_LT(left, 1e6 * seconds * 20);
  EXPECT_GT(median, seconds / 20);
  EXPECT_LT(median, seconds * 20);
  EXPECT_THAT(stages, testing::SizeIs(8));
  double all = rest;
  for (const auto& [stage, time] : stages) all += time;
  EXPECT_GT(all, seconds / 20);
  EXPECT_LT(all, seconds * 20);
  EXPECT_GT(stages.at("backward"), 0);
}

TEST_F(Watching, AnElasticRunsMembersAndTermsAreSeen) {
  const std::string address = "127.0.0.1:" + std::to_string(test::free_port());
  const Environment environment{{"BALLOT_TOKEN", "of-this-test"}, {"OMP_NUM_THREADS", "1"}};
  Command coordinator(
      {"coordinator", "out", "--listen", address, "--start-workers", "3", "--heartbeat-timeout",
       "2s", "--seal-timeout", "2s", "--cold-wait", "60s", "--prometheus", "127.0.0.1:0"},
      file(""), environment);
  std::vector<std::unique_ptr<Command>> workers;
  for (int w = 0; w < 3; ++w) {
    std::vector<std::string> words{"train", "run.toml", "--coordinator",
                                   address, "--worker", std::to_string(w)};
    for (const std::string& setting : settings_) words.insert(words.end(), {"--set", setting});
    workers.push_back(std::make_unique<Command>(words, file(""), environment));
  }
  const auto outputs = [&] {
    std::string all = coordinator.output();
    for (const auto& worker : workers) all += "---\n" + worker->output();
    return all;
  };
  ASSERT_TRUE(has_targets({"coordinator.json", "worker-0.json", "worker-1.json", "worker-2.json"}))
      << outputs();
  prometheus_ = std::make_unique<PrometheusProcess>(configuration());
  ASSERT_TRUE(answers("Step", "{{run}}", [](double step) { return step >= 30; })) << outputs();
  // The coordinator may be scraped later than the first worker.
  ASSERT_TRUE(answers("Term", "coordinator", [](double now) { return now >= 1; })) << outputs();
  ASSERT_TRUE(answers("Workers", "", [](double count) { return count == 3; })) << outputs();
  ASSERT_TRUE(answers("Coordinators that lead", "", [](double count) { return count == 1; }));
  const double loss = ask("Loss", "training");
  EXPECT_TRUE(within(60s, [&] {  // the last scrape may be of before all of them did
    const auto by_state = ask_by("state", "Workers by state", "{{state}}");
    const auto voting = by_state.find("voting");
    return voting != by_state.end() && voting->second == 3;
  }));
  const double term = ask("Term", "coordinator");
  EXPECT_GE(term, 1);
  EXPECT_THAT(ask_by("worker", "Age of the last pulse", ""),
              UnorderedElementsAre(testing::Key("0"), testing::Key("1"), testing::Key("2")));
  EXPECT_EQ(ask("Coordinators that lead"), 1);
  EXPECT_EQ(prometheus_->query("count by (role) (up)").size(), 2u);

  // The first, which writes the record, is killed: its target stays and is seen to be down.
  workers[0]->send(SIGKILL);
  workers[0]->wait(10s);
  EXPECT_TRUE(answers("Term", "coordinator", [&](double now) { return now > term; })) << outputs();
  EXPECT_TRUE(answers("Workers", "", [](double count) { return count == 2; })) << outputs();
  EXPECT_TRUE(answers("Processes not reached", "", [](double count) { return count == 1; }));
  EXPECT_TRUE(answers("Tokens per second", "", [](double rate) { return rate > 0; }));

  for (const int w : {1, 2}) workers[w]->send(SIGTERM);
  for (const int w : {1, 2}) EXPECT_EQ(workers[w]->wait(60s).exit_code, kRetry) << outputs();
  coordinator.send(SIGTERM);
  EXPECT_EQ(coordinator.wait(60s).exit_code, 0) << outputs();
  EXPECT_THAT(targets(), testing::ElementsAre("worker-0.json"));
  expect_of_a_step(loss, "loss_metrics/global_avg_loss");
}

// All that an endpoint has to say of a port that is taken, by whoever asked for it.
TEST_F(Watching, AnAddressThatCannotBeListenedAtEndsTheJobBeforeItBegins) {
  const PrometheusProcess other("");  // has a port
  const std::string taken = other.address();
  const Ended job = ballot(launch(2, "out", {"output.prometheus=" + taken}));
  EXPECT_EQ(job.exit_code, kConfiguration) << job.output;
  EXPECT_THAT(job.output, AllOf(HasSubstr("output.prometheus = \"" + taken), HasSubstr("in use")));
  EXPECT_FALSE(std::filesystem::exists(file("out/metrics.jsonl")));
  const std::string free = "127.0.0.1:" + std::to_string(test::free_port());
  const Ended coordinator = ballot({"coordinator", "out", "--listen", free, "--prometheus", taken});
  EXPECT_EQ(coordinator.exit_code, kConfiguration) << coordinator.output;
  EXPECT_THAT(coordinator.output, AllOf(HasSubstr("--prometheus"), HasSubstr(taken)));
  const Ended wrong = ballot(launch(2, "out", {"output.prometheus=9400"}));
  EXPECT_EQ(wrong.exit_code, kConfiguration) << wrong.output;
  EXPECT_THAT(wrong.output, HasSubstr("output.prometheus"));
  const Ended elastic = ballot(launch(2, "out2", {"--elastic", "output.prometheus=" + taken}));
  EXPECT_EQ(elastic.exit_code, kConfiguration) << elastic.output;
  EXPECT_THAT(elastic.output, HasSubstr(taken));
}

// A resumed run may be watched otherwise than before: it is the same run.
TEST_F(Watching, WhatIsWatchedMayChangeWhenARunIsResumed) {
  train(2, "out", {"train.steps=4"});
  train(2, "out",
        {"train.steps=8", "--resume", "output.prometheus=127.0.0.1:0", "output.tensorboard=true"});
  EXPECT_THAT(targets(), testing::IsEmpty());
  EXPECT_FALSE(std::filesystem::is_empty(file("out/tensorboard")));
  EXPECT_EQ(metrics("out", "step").size(), 8u);
}

}  // namespace
}  // namespace ballot
