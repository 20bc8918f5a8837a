// Elastic runs as a user starts them: a coordinator and workers that are killed, stopped, told to
// leave and joined by others.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/process/small_run.h"
#include "tests/support/free_port.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr int kRetry = 4;  // core/error.h
constexpr int kSentAway = 5;
// More steps than any machine makes while a test looks on: what is disturbed is under way.
constexpr std::int64_t kEndless = 1'000'000;

class Elastic : public SmallRun {
 protected:
  void start_coordinator(int workers, const std::string& heartbeat_timeout = "2s") {
    std::vector<std::string> words{"coordinator",
                                   "out",
                                   "--listen",
                                   address_,
                                   "--start-workers",
                                   std::to_string(workers),
                                   "--heartbeat-timeout",
                                   heartbeat_timeout,
                                   "--seal-timeout",
                                   "2s",
                                   "--cold-wait",
                                   "60s"};
    coordinator_ = std::make_unique<Command>(words, file(""), environment_);
  }
  void set_steps(std::int64_t steps) { settings_[0] = fmt::format("train.steps={}", steps); }
  void start(int worker) {
    std::vector<std::string> words{"train",  "run.toml", "--coordinator",
                                   address_, "--worker", std::to_string(worker)};
    for (const std::string& setting : settings_) words.insert(words.end(), {"--set", setting});
    workers_[worker] = std::make_unique<Command>(words, file(""), environment_);
  }
  std::string outputs() const {
    std::string all = "--- coordinator\n" + coordinator_->output();
    for (const auto& [number, worker] : workers_)
      all += "--- worker " + std::to_string(number) + "\n" + worker->output();
    return all;
  }
  void expect_all_end(int exit_code) {
    for (const auto& [number, worker] : workers_)
      EXPECT_EQ(worker->wait(150s).exit_code, exit_code) << "worker " << number << "\n"
                                                         << outputs();
  }
  void expect_all_end_well() { expect_all_end(0); }
  // Told to leave, they do; then the run is given an end, which is reached.
  std::int64_t leave_and_go_on_to_an_end() {
    for (const auto& [number, worker] : workers_) worker->send(SIGTERM);
    expect_all_end(kRetry);
    const std::int64_t end = committed() + 20;
    set_steps(end);
    std::vector<int> numbers;
    for (const auto& [number, worker] : workers_) numbers.push_back(number);
    for (const int number : numbers) start(number);
    expect_all_end_well();
    const nlohmann::json seen = status();
    EXPECT_EQ(seen["steps"], end);
    EXPECT_EQ(seen["commit"]["step"], end);
    EXPECT_THAT(seen["reason"].get<std::string>(), HasSubstr("the run has ended"));
    return end;
  }
  // Null while the coordinator is away.
  nlohmann::json ask_status() const {
    const Ended ended = ballot({"status", address_, "--json"}, environment_);
    const nlohmann::json parsed = nlohmann::json::parse(ended.output, nullptr, false);
    return ended.exit_code == 0 && parsed.is_object() ? parsed : nlohmann::json();
  }
  nlohmann::json status() const {
    nlohmann::json seen;
    EXPECT_TRUE(within(60s, [&] {
      seen = ask_status();
      return seen.is_object();
    })) << outputs();
    return seen;
  }
  std::int64_t committed() const { return status()["commit"]["step"].get<std::int64_t>(); }
  bool reaches(std::int64_t step) const {
    return within(120s, [&] { return committed() >= step; });
  }
  // Of the process that is there now.
  std::int64_t incarnation(int worker) const {
    const nlohmann::json seen = status();
    for (const auto& one : seen["workers"])
      if (one["worker"] == worker) return one["incarnation"];
    ADD_FAILURE() << "no worker " << worker << " in " << seen.dump();
    return 0;
  }
  // A new process of it votes; and so do all that there are then.
  bool votes_again(int worker, std::int64_t after_incarnation) const {
    return within(60s, [&] {
      const nlohmann::json seen = status();
      if (!seen.is_object()) return false;
      const bool all = std::ranges::all_of(seen["workers"], [](const nlohmann::json& one) {
        return one["state"] == "voting" && !one["voter"].is_null();
      });
      const bool there = std::ranges::any_of(seen["workers"], [&](const nlohmann::json& one) {
        return one["worker"] == worker && one["incarnation"] > after_incarnation;
      });
      return all && there;
    });
  }
  // The journal's replay of the last step is proved by the digest that the live run left.
  void expect_replays(std::int64_t step) const {
    const Ended ended = ballot({"replay", "out", "--to-step", std::to_string(step)});
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr("proved")) << ended.output;
  }

  std::string address_ = "127.0.0.1:" + std::to_string(test::free_port());
  Environment environment_{{"BALLOT_TOKEN", "of-this-test"}, {"OMP_NUM_THREADS", "1"}};
  std::vector<std::string> settings_{"train.steps=12", "train.checkpoint_every=20",
                                     "vote.deadline_seconds=60"};
  std::unique_ptr<Command> coordinator_;
  std::map<int, std::unique_ptr<Command>> workers_;
};

// Nothing happens to it: the very bits of a job whose workers are fixed.
TEST_F(Elastic, UndisturbedItGivesTheBitsOfAFixedJob) {
  settings_[1] = "train.checkpoint_every=4";
  start_coordinator(3, "60s");  // undisturbed also where a machine stands still for a while
  for (int w = 0; w < 3; ++w) start(w);
  expect_all_end_well();
  train(3, "fixed", settings_);
  const std::string last = "/checkpoints/step-00000012/model.safetensors";
  EXPECT_TRUE(read("out" + last) == read("fixed" + last)) << outputs();
  expect_replays(12);
  const auto steps = metrics("out", "step");
  const auto fixed = metrics("fixed", "step");
  ASSERT_EQ(steps.size(), 12u);
  for (std::size_t i = 0; i < steps.size(); ++i)
    EXPECT_NEAR(steps[i]["loss_metrics/global_avg_loss"].get<double>(),
                fixed[i]["loss_metrics/global_avg_loss"].get<double>(), 1e-6);
}

TEST_F(Elastic, AKilledWorkerIsNotWaitedForAndComesBackAtTheHead) {
  set_steps(kEndless);
  start_coordinator(3);
  for (int w = 0; w < 3; ++w) start(w);
  ASSERT_TRUE(reaches(5)) << outputs();
  for (const int victim : {2, 0, 1}) {  // 0 writes the record and decides the means
    const std::int64_t before = incarnation(victim);
    workers_[victim]->send(SIGKILL);
    workers_[victim]->wait(10s);
    const std::int64_t then = committed();
    ASSERT_TRUE(reaches(then + 5)) << outputs();
    start(victim);
    ASSERT_TRUE(votes_again(victim, before)) << outputs();
    ASSERT_TRUE(reaches(committed() + 3)) << outputs();  // with it: it has written its lines
  }
  const std::int64_t end = leave_and_go_on_to_an_end();
  expect_replays(end);
  // Whoever died, each step has its line; but for the last of a term whose successor was not in it
  // (docs/elastic.md).
  std::set<std::int64_t> last_of_terms;
  for (const auto& term : metrics("out", "term"))
    last_of_terms.insert(term["step"].get<std::int64_t>());
  std::int64_t expected = 1;
  for (const auto& step : metrics("out", "step")) {
    while (step["step"] != expected && last_of_terms.contains(expected)) ++expected;
    ASSERT_EQ(step["step"], expected++) << outputs();
  }
  EXPECT_EQ(expected, end + 1) << outputs();
}

// Two at once: nobody is left to suspect the second, and it is not waited for long.
TEST_F(Elastic, OfTwoKilledAtOnceNeitherIsWaitedForUntilItsHeartbeatIsMissed) {
  set_steps(kEndless);
  start_coordinator(3, "100s");
  for (int w = 0; w < 3; ++w) start(w);
  ASSERT_TRUE(reaches(5)) << outputs();
  workers_[1]->send(SIGKILL);
  workers_[2]->send(SIGKILL);
  const std::int64_t then = committed();
  ASSERT_TRUE(within(50s, [&] { return committed() >= then + 5; })) << outputs();
}

// All that is left of it is what it was: whoever comes back finds it so, whatever it had.
TEST_F(Elastic, OneThatWasAwayWhenTheRunEndedFindsItsEnd) {
  set_steps(kEndless);
  start_coordinator(3);
  for (int w = 0; w < 3; ++w) start(w);
  ASSERT_TRUE(reaches(5)) << outputs();
  workers_[2]->send(SIGKILL);
  workers_[2]->wait(10s);
  workers_.erase(2);
  // Else a cold start would wait for it: nobody could know what it had.
  ASSERT_TRUE(within(60s, [&] { return status()["term"].get<int>() >= 2; })) << outputs();
  ASSERT_TRUE(reaches(committed() + 5)) << outputs();
  const std::int64_t end = leave_and_go_on_to_an_end();
  start(2);
  EXPECT_EQ(workers_[2]->wait(60s).exit_code, 0) << outputs();
  EXPECT_THAT(workers_[2]->output(), HasSubstr(fmt::format("ends after step {}", end)));
  expect_replays(end);
}

// And another end, later: the same run goes on.
TEST_F(Elastic, ARunThatHasEndedIsMadeLonger) {
  start_coordinator(2);
  start(0);
  start(1);
  expect_all_end_well();
  set_steps(20);
  start(0);
  ASSERT_TRUE(within(60s, [&] {
    const nlohmann::json seen = status();
    return seen.value("steps", 0) == 20 &&
           std::ranges::any_of(seen["workers"], [](const nlohmann::json& one) {
             return one["worker"] == 0 && one["incarnation"] == 2 && one["silent"] == false;
           });
  })) << outputs();
  const std::string longer = settings_[0];
  set_steps(30);
  const Ended other = ballot({"train", "run.toml", "--coordinator", address_, "--worker", "1",
                              "--set", settings_[0], "--set", settings_[1]},
                             environment_);
  EXPECT_EQ(other.exit_code, 2) << other.output;
  EXPECT_THAT(other.output, HasSubstr("train.steps = 30, the run's is 20"));
  settings_[0] = longer;
  start(1);
  expect_all_end_well();
  expect_replays(20);
  EXPECT_EQ(metrics("out", "step").size(), 20u);
}

TEST_F(Elastic, AllKilledAtOnceTheyGoOnFromTheirJournals) {
  set_steps(kEndless);
  start_coordinator(3);
  for (int w = 0; w < 3; ++w) start(w);
  ASSERT_TRUE(reaches(25)) << outputs();
  const std::int64_t then = committed();
  for (auto& [number, worker] : workers_) worker->send(SIGKILL);
  coordinator_->send(SIGKILL);
  for (auto& [number, worker] : workers_) worker->wait(10s);
  coordinator_->wait(10s);
  start_coordinator(3);
  for (const int w : {2, 0, 1}) start(w);
  ASSERT_TRUE(reaches(then + 5)) << outputs();
  expect_replays(leave_and_go_on_to_an_end());
}

TEST_F(Elastic, TheCoordinatorMayDieAndSomebodyMayJoin) {
  set_steps(kEndless);
  start_coordinator(2);
  start(0);
  start(1);
  ASSERT_TRUE(reaches(5)) << outputs();
  coordinator_->send(SIGKILL);
  coordinator_->wait(10s);
  start_coordinator(2);
  start(2);  // new: fetches all that it missed
  ASSERT_TRUE(within(60s, [&] {
    const nlohmann::json seen = status();
    return seen.is_object() && seen["term"].get<int>() >= 2 && seen["workers"].size() == 3;
  })) << outputs();
  workers_[1]->send(SIGTERM);  // and one leaves in order
  EXPECT_EQ(workers_[1]->wait(60s).exit_code, kRetry) << outputs();
  workers_.erase(1);
  expect_replays(leave_and_go_on_to_an_end());
}

// `launch --elastic` on one machine: whoever dies is started again, and a signal ends it in order.
TEST_F(Elastic, LaunchedWorkersAndTheirCoordinatorAreStartedAgain) {
  const auto words = [](std::int64_t steps) {
    return std::vector<std::string>{"launch",
                                    "run.toml",
                                    "--workers",
                                    "3",
                                    "--elastic",
                                    "--max-restarts",
                                    "4",
                                    "--set",
                                    fmt::format("train.steps={}", steps),
                                    "--set",
                                    "train.checkpoint_every=100",
                                    "--set",
                                    "vote.deadline_seconds=60"};
  };
  Command job(words(kEndless), file(""), {{"OMP_NUM_THREADS", "1"}});
  const auto last_step = [&] {
    std::ifstream record(file("out/metrics.jsonl"));
    std::int64_t last = -1;
    for (std::string line; std::getline(record, line);) {
      const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
      if (parsed.is_object() && parsed.value("type", "") == "step") last = parsed["step"];
    }
    return last;
  };
  ASSERT_TRUE(within(120s, [&] { return last_step() >= 5; })) << job.output();
  const pid_t coordinator = job.child("coordinator", "out");
  ASSERT_GT(coordinator, 0) << job.output();
  for (const int worker : {1, 0}) {
    const pid_t victim = job.child("--worker", std::to_string(worker));
    ASSERT_GT(victim, 0) << job.output();
    ::kill(victim, SIGKILL);
    ASSERT_TRUE(within(60s, [&] {
      const pid_t again = job.child("--worker", std::to_string(worker));
      return again > 0 && again != victim;
    })) << job.output();
  }
  ::kill(coordinator, SIGKILL);
  job.send(
      SIGTERM);  // while it is away: the workers are let go when it is back, or by the deadline
  const Ended stopped = job.wait(200s);
  EXPECT_EQ(stopped.exit_code, kRetry) << stopped.output;
  const std::int64_t end = last_step() + 200;
  const Ended ended = ballot(words(end), {{"OMP_NUM_THREADS", "1"}});  // and on to an end
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  expect_replays(end);
}

// By an operator: its process ends with a code of its own, the others go on; started anew it is let
// in again.
TEST_F(Elastic, AWorkerThatIsSentAwayEndsWithItsOwnCodeAndMayComeBackAnew) {
  set_steps(kEndless);
  start_coordinator(3, "20s");  // nobody else is to be missed meanwhile
  for (int w = 0; w < 3; ++w) start(w);
  ASSERT_TRUE(reaches(3)) << outputs();
  const Ended told = ballot({"expel", address_, "1", "--reason", "its disk fails"}, environment_);
  EXPECT_EQ(told.exit_code, 0) << told.output;
  EXPECT_EQ(workers_[1]->wait(60s).exit_code, kSentAway) << outputs();
  EXPECT_THAT(workers_[1]->output(), HasSubstr("worker 1 was sent away: its disk fails"));
  const std::int64_t then = committed();
  ASSERT_TRUE(reaches(then + 3)) << outputs();
  const std::int64_t before = incarnation(0);
  start(1);
  ASSERT_TRUE(votes_again(1, 1)) << outputs();
  EXPECT_EQ(incarnation(0), before);
  expect_replays(leave_and_go_on_to_an_end());
}

// The launcher's: no restart, and the run's own code at its end.
TEST_F(Elastic, ALaunchedWorkerThatIsSentAwayDoesNotEndTheOthers) {
  Command job({"launch", "run.toml", "--workers", "3", "--elastic", "--max-restarts", "2", "--set",
               "train.steps=300", "--set", "vote.deadline_seconds=60"},
              file(""), environment_);
  const auto address = [&] {
    const std::string output = job.output();
    const std::string before = "listens at ";
    const auto at = output.find(before);
    if (at == std::string::npos) return std::string();
    const auto begin = at + before.size();
    return output.substr(begin, output.find_first_not_of("0123456789.:", begin) - begin);
  };
  ASSERT_TRUE(within(60s, [&] { return !address().empty(); })) << job.output();
  ASSERT_TRUE(within(60s, [&] {
    return ballot({"expel", address(), "2", "--reason", "a test"}, environment_).exit_code == 0;
  })) << job.output();
  const Ended ended = job.wait(150s);
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("worker 2 was sent away and is not started again"));
  EXPECT_THAT(ended.output, testing::Not(HasSubstr("starting it again")));
  expect_replays(300);
}

TEST_F(Elastic, AWorkerOfAnotherConfigurationIsRefused) {
  start_coordinator(2);
  start(0);
  ASSERT_TRUE(within(60s, [&] {
    const nlohmann::json seen = status();
    return seen.is_object() && seen["workers"].size() == 1;
  })) << outputs();
  const Ended ended =
      ballot({"train", "run.toml", "--coordinator", address_, "--worker", "1", "--set",
              "train.seed=7", "--set", "output.folder=elsewhere", "--run", "out"},
             environment_);
  EXPECT_EQ(ended.exit_code, 2) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("configuration"));
}

// Two processes with one number would write one journal.
TEST_F(Elastic, ANumberIsOneProcessAtATime) {
  start_coordinator(2);
  start(0);
  ASSERT_TRUE(within(60s, [&] {
    const nlohmann::json seen = status();
    return seen.is_object() && seen["workers"].size() == 1;
  })) << outputs();
  const Ended ended = ballot({"train", "run.toml", "--coordinator", address_, "--worker", "0",
                              "--set", settings_[0], "--set", settings_[1], "--set", settings_[2]},
                             environment_);
  EXPECT_EQ(ended.exit_code, 4) << ended.output;  // the other one may be about to end
  EXPECT_THAT(ended.output, HasSubstr("in use by process"));
}

}  // namespace
}  // namespace ballot
