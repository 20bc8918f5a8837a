// Elastic runs as a user starts them: a coordinator and workers that are killed, stopped, told to
// leave and joined by others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "tests/process/small_run.h"
#include "tests/support/free_port.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr int kRetry = 4;  // core/error.h

class Elastic : public SmallRun {
 protected:
  void start_coordinator(int workers, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"coordinator",
                                   "out",
                                   "--listen",
                                   address_,
                                   "--start-workers",
                                   std::to_string(workers),
                                   "--heartbeat-timeout",
                                   "2s",
                                   "--seal-timeout",
                                   "2s",
                                   "--cold-wait",
                                   "60s"};
    words.insert(words.end(), more.begin(), more.end());
    coordinator_ = std::make_unique<Command>(words, file(""), environment_);
  }
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
  void expect_all_end_well() {
    for (const auto& [number, worker] : workers_)
      EXPECT_EQ(worker->wait(60s).exit_code, 0) << "worker " << number << "\n" << outputs();
  }
  nlohmann::json status() const {
    const Ended ended = ballot({"status", address_, "--json"}, environment_);
    return ended.exit_code == 0 ? nlohmann::json::parse(ended.output, nullptr, false)
                                : nlohmann::json();
  }
  std::int64_t committed() const {
    const nlohmann::json seen = status();
    return seen.is_object() ? seen["commit"]["step"].get<std::int64_t>() : -1;
  }
  bool reaches(std::int64_t step) const {
    return within(120s, [&] { return committed() >= step; });
  }
  // The journal's replay of the last step is proved by the digest that the live run left.
  void expect_replays(std::int64_t step) const {
    const Ended ended = ballot({"replay", "out", "--to-step", std::to_string(step)});
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr("proved")) << ended.output;
  }

  std::string address_ = "127.0.0.1:" + std::to_string(test::free_port());
  Environment environment_{{"BALLOT_TOKEN", "of-this-test"}, {"OMP_NUM_THREADS", "1"}};
  std::vector<std::string> settings_{"train.steps=12", "train.checkpoint_every=4",
                                     "vote.deadline_seconds=60"};
  std::unique_ptr<Command> coordinator_;
  std::map<int, std::unique_ptr<Command>> workers_;
};

// Nothing happens to it: the very bits of a job whose workers are fixed.
TEST_F(Elastic, UndisturbedItGivesTheBitsOfAFixedJob) {
  start_coordinator(3);
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
  settings_[0] = "train.steps=400";
  settings_[1] = "train.checkpoint_every=100";
  start_coordinator(3);
  for (int w = 0; w < 3; ++w) start(w);
  ASSERT_TRUE(reaches(5)) << outputs();
  for (const int victim : {2, 0, 1}) {  // 0 writes the record and decides the means
    workers_[victim]->send(SIGKILL);
    const std::int64_t then = committed();
    ASSERT_TRUE(reaches(then + 5)) << outputs();
    start(victim);
    ASSERT_TRUE(within(60s, [&] {
      const nlohmann::json seen = status();
      int voting = 0;
      for (const auto& worker : seen["workers"]) voting += worker["state"] == "voting";
      return voting == 3;
    })) << outputs();
  }
  expect_all_end_well();
  expect_replays(400);
  EXPECT_EQ(metrics("out", "step").back()["step"], 400);
}

TEST_F(Elastic, AllKilledAtOnceTheyGoOnFromTheirJournals) {
  settings_[0] = "train.steps=60";
  settings_[1] = "train.checkpoint_every=20";
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
  ASSERT_TRUE(within(60s, [&] { return committed() >= then; })) << outputs();
  expect_all_end_well();
  expect_replays(60);
}

TEST_F(Elastic, TheCoordinatorMayDieAndSomebodyMayJoin) {
  settings_[0] = "train.steps=300";
  settings_[1] = "train.checkpoint_every=100";
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
  expect_all_end_well();
  expect_replays(300);
}

// `launch --elastic` on one machine: whoever dies is started again, and a signal ends it in order.
TEST_F(Elastic, LaunchedWorkersAndTheirCoordinatorAreStartedAgain) {
  const std::vector<std::string> words{"launch",
                                       "run.toml",
                                       "--workers",
                                       "3",
                                       "--elastic",
                                       "--restarts",
                                       "4",
                                       "--set",
                                       "train.steps=300",
                                       "--set",
                                       "vote.deadline_seconds=60"};
  Command job(words, file(""), {{"OMP_NUM_THREADS", "1"}});
  const auto reached = [&](std::int64_t step) {
    return within(120s, [&] {
      std::ifstream record(file("out/metrics.jsonl"));
      std::string line;
      std::int64_t last = -1;
      while (std::getline(record, line)) {
        const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
        if (parsed.is_object() && parsed.value("type", "") == "step") last = parsed["step"];
      }
      return last >= step;
    });
  };
  ASSERT_TRUE(reached(5)) << job.output();
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
  const Ended ended = ballot(words, {{"OMP_NUM_THREADS", "1"}});  // and on to the end
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
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
  EXPECT_EQ(ended.exit_code, 2) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("in use by process"));
}

}  // namespace
}  // namespace ballot
