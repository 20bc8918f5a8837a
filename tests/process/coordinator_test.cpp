// `ballot coordinator` as a process: killed and started again, asked for its status, told to end.
// Its workers are threads here, which pulse over real sockets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "runtime/coordinator/coordinator_server.h"
#include "tests/process/command.h"
#include "tests/support/pulsing_worker.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using test::PulsingWorker;
using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

constexpr int kConfiguration = 2, kData = 3, kRetry = 4;  // core/error.h
const char* const kSecret = "not-for-the-log";

std::string free_address() {
  CoordinatorServerOptions options;
  options.listen = "127.0.0.1:0";
  return CoordinatorServer(options, open_memory_store(make_memory_row())).address();
}

class CoordinatorProcess : public testing::Test {
 protected:
  std::vector<std::string> arguments(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words{"coordinator",         "run", "--listen", address_,
                                   "--heartbeat-timeout", "2s"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  std::unique_ptr<Command> start(const std::vector<std::string>& more = {}) const {
    return std::make_unique<Command>(arguments(more), folder_.path(), environment_);
  }
  Ended ballot(const std::vector<std::string>& words) const {
    return run_command(words, folder_.path(), environment_);
  }
  CoordinatorClientOptions client() const {
    CoordinatorClientOptions options;
    options.address = address_;
    options.run = "run";
    options.access.secret = kSecret;
    options.heartbeat = 100ms;
    options.urgent = 10ms;
    options.first_pause = 20ms;
    options.last_pause = 200ms;
    return options;
  }
  nlohmann::json status() const {
    const Ended ended = ballot({"status", address_, "--json"});
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    return nlohmann::json::parse(ended.output, nullptr, false);
  }

  TemporaryFolder folder_;
  std::string address_ = free_address();
  Environment environment_{{"BALLOT_TOKEN", kSecret}};
};

// Kills it at no moment in particular, again and again, while three workers make steps.
TEST_F(CoordinatorProcess, KilledAndStartedAgainItGoesOnWithTheSameTerm) {
  auto coordinator = start({"--start-workers", "3"});
  std::vector<std::unique_ptr<PulsingWorker>> workers;
  for (int i = 0; i < 3; ++i) workers.push_back(std::make_unique<PulsingWorker>(client(), i));
  const auto all = [&](const auto& holds) {
    return within(30s, [&] { return std::ranges::all_of(workers, holds); });
  };
  ASSERT_TRUE(all([](const auto& w) { return w->voting_in(1); })) << coordinator->output();
  std::string log;
  std::int64_t step = 0;
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 20 + 7 * round; ++i) {
      ++step;
      for (const auto& worker : workers) worker->hold(step);
      std::this_thread::sleep_for(1ms);
    }
    coordinator->send(SIGKILL);
    coordinator->wait(10s);
    log += coordinator->output();
    const std::int64_t committed = workers[0]->commit();
    ++step;
    for (const auto& worker : workers) worker->hold(step);  // nobody waits for it
    coordinator = start({"--start-workers", "3"});
    ASSERT_TRUE(all([&](const auto& w) { return w->commit() == step; })) << coordinator->output();
    EXPECT_GE(step, committed);
  }
  for (const auto& worker : workers) {
    EXPECT_TRUE(worker->voting_in(1));
    EXPECT_EQ(worker->joins(), 1);
  }
  const nlohmann::json seen = status();
  EXPECT_EQ(seen["term"], 1);
  EXPECT_EQ(seen["commit"]["step"], step);
  EXPECT_EQ(seen["workers"].size(), 3u);

  // One is killed while the coordinator is away, too: it is missed after a full timeout.
  coordinator->send(SIGKILL);
  coordinator->wait(10s);
  workers.pop_back();
  coordinator = start({"--start-workers", "3"});
  ASSERT_TRUE(all([](const auto& w) { return w->voting_in(2); })) << coordinator->output();
  EXPECT_THAT(status()["changes"][0]["reason"].get<std::string>(), HasSubstr("worker 2"));
  log += coordinator->output();
  EXPECT_THAT(log, Not(HasSubstr(kSecret)));
  EXPECT_THAT(log, Not(HasSubstr("error")));
}

TEST_F(CoordinatorProcess, ToldToEndItTellsItsWorkersAndEndsInOrder) {
  const auto coordinator = start();
  CoordinatorClientOptions patient = client();
  patient.first_pause = patient.last_pause = 5s;  // what it was told last stays the last
  PulsingWorker worker(patient, 0);
  ASSERT_TRUE(within(30s, [&] { return worker.voting_in(1); })) << coordinator->output();
  coordinator->send(SIGTERM);
  const Ended ended = coordinator->wait(20s);
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_TRUE(within(10s, [&] {
    return worker.client().trouble().find("asked to end by signal 15") != std::string::npos;
  })) << worker.client().trouble();
  EXPECT_TRUE(worker.voting_in(1));
}

// While it is stopped it hears nobody; that is held against nobody.
TEST_F(CoordinatorProcess, StoppedForLongerThanItsTimeoutItSendsNobodyAway) {
  auto coordinator = start({"--start-workers", "2"});
  PulsingWorker one(client(), 0), other(client(), 1);
  const auto both = [&](std::int64_t step) {
    return within(30s, [&] { return one.commit() == step && other.commit() == step; });
  };
  ASSERT_TRUE(within(30s, [&] { return one.voting_in(1) && other.voting_in(1); }));
  coordinator->send(SIGSTOP);
  std::this_thread::sleep_for(3s);  // the timeout is 2 s
  one.hold(7);
  other.hold(7);
  coordinator->send(SIGCONT);
  EXPECT_TRUE(both(7)) << coordinator->output();
  EXPECT_TRUE(one.voting_in(1) && other.voting_in(1)) << coordinator->output();
}

TEST_F(CoordinatorProcess, StatusShowsWorkersAndWhatIsWaitedFor) {
  auto coordinator = start({"--start-workers", "2"});
  PulsingWorker worker(client(), 4);
  ASSERT_TRUE(within(30s, [&] {
    return ballot({"status", address_}).output.find("wait: 1 of 2 workers have joined") !=
           std::string::npos;
  })) << ballot({"status", address_}).output;
  const Ended shown = ballot({"status", address_});
  EXPECT_EQ(shown.exit_code, 0);
  for (const char* const words : {"run run", "no term yet", "127.0.0.1:20004", "joining"})
    EXPECT_THAT(shown.output, HasSubstr(words));
  const nlohmann::json json = status();
  EXPECT_EQ(json["workers"][0]["worker"], 4);
  EXPECT_EQ(json["decision"], "wait");
}

TEST_F(CoordinatorProcess, AnExpelledWorkerIsOut) {
  auto coordinator = start({"--start-workers", "2"});
  PulsingWorker one(client(), 0), other(client(), 1);
  ASSERT_TRUE(within(30s, [&] { return one.voting_in(1) && other.voting_in(1); }));
  const Ended ended = ballot({"expel", address_, "1", "--reason", "a test"});
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_TRUE(within(30s, [&] { return one.voting_in(2); })) << coordinator->output();
  EXPECT_EQ(one.record().find(1), nullptr);
}

TEST_F(CoordinatorProcess, WhatCannotWorkIsRefusedWithItsExitCode) {
  Ended ended = ballot({"status", address_, "--timeout", "500ms"});
  EXPECT_EQ(ended.exit_code, kRetry) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr(address_));

  environment_.clear();
  ended = ballot({"coordinator", "run", "--listen", "0.0.0.0:29500"});
  EXPECT_EQ(ended.exit_code, kConfiguration) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("neither TLS nor a token"));
  ended = ballot({"coordinator", "run", "--listen", "nowhere"});
  EXPECT_EQ(ended.exit_code, kConfiguration) << ended.output;
  ended = ballot(arguments({"--tls-ca", "ca.pem"}));
  EXPECT_EQ(ended.exit_code, kConfiguration) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("expected all three"));
  ended = ballot(arguments({"--heartbeat-timeout", "soon"}));
  EXPECT_EQ(ended.exit_code, kConfiguration) << ended.output;

  const auto coordinator = start();
  ASSERT_TRUE(within(30s, [&] {
    return ballot({"status", address_}).exit_code == 0;
  })) << coordinator->output();
  const Ended second = ballot({"coordinator", "run2", "--listen", address_});
  EXPECT_EQ(second.exit_code, 4) << second.output;  // whoever has the port may let go of it
  EXPECT_THAT(second.output, HasSubstr("cannot listen at " + address_));
}

TEST_F(CoordinatorProcess, ARowOfAnotherRunOrADamagedOneIsRefused) {
  {
    const auto coordinator = start();
    ASSERT_TRUE(within(30s, [&] { return ballot({"status", address_}).exit_code == 0; }));
  }
  Ended ended = ballot(arguments({"--run", "another"}));
  EXPECT_EQ(ended.exit_code, kConfiguration) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("the row is of run \"run\", not of \"another\""));
  std::FILE* file = std::fopen(folder_.file("run/coordinator.db").c_str(), "r+");
  ASSERT_NE(file, nullptr);
  std::fputs("no database at all", file);
  std::fclose(file);
  ended = ballot(arguments());
  EXPECT_EQ(ended.exit_code, kData) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("coordinator.db"));
}

}  // namespace
}  // namespace ballot
