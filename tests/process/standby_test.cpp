// Several `ballot coordinator` of one run with their row in a real etcd: one leads, the others
// stand by, whatever becomes of it. Their workers are threads here, which know all addresses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/process/command.h"
#include "tests/support/etcd_process.h"
#include "tests/support/pulsing_worker.h"

namespace ballot {
namespace {

using test::EtcdProcess;
using test::PulsingWorker;
using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

constexpr int kConfiguration = 2, kRetry = 4;  // core/error.h

class Standby : public testing::Test {
 protected:
  void TearDown() override {
    for (const auto& worker : workers_) EXPECT_EQ(worker->failure(), "");
    if (HasFailure())
      for (const auto& coordinator : coordinators_)
        if (coordinator) ADD_FAILURE() << coordinator->output();
  }

  // A coordinator of its own folder, as on another machine.
  void start(std::size_t i) {
    coordinators_[i] = std::make_unique<Command>(
        std::vector<std::string>{"coordinator", fmt::format("node{}", i), "--run", "run",
                                 "--listen", addresses_[i], "--heartbeat-timeout", "2s",
                                 "--start-workers", "2", "--store", store_, "--lease", "2s"},
        folder_.path());
  }
  nlohmann::json status(std::size_t i) const {
    const Ended ended = run_command({"status", addresses_[i], "--json"}, folder_.path());
    return ended.exit_code == 0 ? nlohmann::json::parse(ended.output, nullptr, false)
                                : nlohmann::json::object();
  }
  bool leads(std::size_t i) const { return status(i).value("leading", false); }
  // The one that leads, once it does.
  std::size_t wait_leader() const {
    std::size_t leader = 0;
    EXPECT_TRUE(within(30s, [&] {
      for (leader = 0; leader < addresses_.size(); ++leader)
        if (coordinators_[leader] && leads(leader)) return true;
      return false;
    }));
    return leader;
  }
  void start_workers() {
    CoordinatorClientOptions options;
    options.address = addresses_[0] + "," + addresses_[1];
    options.run = "run";
    options.heartbeat = 100ms;
    options.urgent = 10ms;
    options.first_pause = 20ms;
    options.last_pause = 200ms;
    options.silence = 1s;
    for (int i = 0; i < 2; ++i) workers_.push_back(std::make_unique<PulsingWorker>(options, i));
    ASSERT_TRUE(all([](const PulsingWorker& w) { return w.voting_in(1); }));
  }
  template <class Holds>
  bool all(const Holds& holds) const {
    return within(30s, [&] {
      return std::ranges::all_of(workers_, [&](const auto& worker) { return holds(*worker); });
    });
  }
  // Makes so many steps and waits until the last one is committed.
  bool commit(int steps) {
    for (int i = 0; i < steps; ++i) {
      ++step_;
      for (const auto& worker : workers_) worker->hold(step_);
    }
    return all([this](const PulsingWorker& w) { return w.commit() == step_; });
  }
  void expect_one_term() const {
    for (const auto& worker : workers_) {
      EXPECT_TRUE(worker->voting_in(1));
      EXPECT_EQ(worker->joins(), 1);
    }
  }

  EtcdProcess etcd_;
  std::string store_ = etcd_.address();
  TemporaryFolder folder_;
  const std::vector<std::string> addresses_{fmt::format("127.0.0.1:{}", test::free_port()),
                                            fmt::format("127.0.0.1:{}", test::free_port())};
  std::vector<std::unique_ptr<Command>> coordinators_{2};
  std::vector<std::unique_ptr<PulsingWorker>> workers_;
  std::int64_t step_ = 0;
};

TEST_F(Standby, TakesOverWithTheSameTermAndRowWhenTheLeaderIsKilled) {
  start(0);
  start(1);
  start_workers();
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(commit(5));
    const std::size_t leader = wait_leader(), other = 1 - leader;
    const std::string stands_by = "stands by: " + addresses_[leader] + " (process ";
    EXPECT_TRUE(within(10s, [&] {  // it may have been started a moment ago
      return status(other).value("reason", "").find(stands_by) != std::string::npos;
    })) << status(other);
    const Stopwatch watch;
    coordinators_[leader]->send(SIGKILL);
    ASSERT_TRUE(commit(5));
    RecordProperty(fmt::format("seconds_to_the_next_commit_{}", round),
                   fmt::format("{:.2f}", watch.elapsed()));
    EXPECT_TRUE(leads(other));
    coordinators_[leader]->wait(10s);
    expect_one_term();
    start(leader);
  }
  const nlohmann::json seen = status(wait_leader());
  EXPECT_EQ(seen["term"], 1);
  EXPECT_EQ(seen["commit"]["step"], step_);
}

TEST_F(Standby, ALeaderStoppedPastItsLeaseLeadsNoMoreAndWritesNothing) {
  start(0);
  start_workers();
  ASSERT_TRUE(commit(5));
  start(1);
  EXPECT_TRUE(within(10s, [&] { return !status(1).empty(); }));
  coordinators_[0]->send(SIGSTOP);
  ASSERT_TRUE(commit(5));  // by the other one
  const std::int64_t revision = status(1)["revision"];
  coordinators_[0]->send(SIGCONT);
  ASSERT_TRUE(within(10s, [&] {
    return coordinators_[0]->output().find("stands by: " + addresses_[1]) != std::string::npos;
  }));
  EXPECT_FALSE(leads(0));
  EXPECT_TRUE(leads(1));
  EXPECT_EQ(status(1)["revision"], revision);
  ASSERT_TRUE(commit(5));
  expect_one_term();
  // And back again, with what the other one has written meanwhile.
  coordinators_[1]->send(SIGKILL);
  ASSERT_TRUE(commit(5));
  EXPECT_TRUE(leads(0));
  expect_one_term();
}

TEST_F(Standby, FollowsAtOnceWhenTheLeaderIsToldToEnd) {
  start(0);
  start_workers();
  start(1);
  EXPECT_TRUE(within(10s, [&] { return !status(1).empty(); }));
  coordinators_[0]->send(SIGTERM);
  const Ended ended = coordinators_[0]->wait(20s);
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, Not(HasSubstr("another coordinator leads only after")));
  ASSERT_TRUE(commit(5));
  EXPECT_TRUE(leads(1));
  expect_one_term();
}

TEST_F(Standby, WithoutEtcdNobodyLeadsAndNothingIsLost) {
  start(0);
  start(1);
  start_workers();
  ASSERT_TRUE(commit(5));
  etcd_.end();
  ASSERT_TRUE(within(20s, [&] { return !leads(0) && !leads(1); }));
  ++step_;
  for (const auto& worker : workers_) worker->hold(step_);  // nobody waits for it
  etcd_.start();
  ASSERT_TRUE(commit(5));
  expect_one_term();
}

TEST_F(Standby, AMemberOfEtcdMayBeKilledAndAnyOneOfThem) {
  test::EtcdCluster cluster;
  store_ = cluster.address();
  start(0);
  start(1);
  start_workers();
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(commit(5)) << i;
    cluster.member(i).end();
    ASSERT_TRUE(commit(5)) << i;
    cluster.member(i).start();
  }
  ASSERT_TRUE(commit(5));
  expect_one_term();
}

TEST_F(Standby, WhatCannotWorkIsRefusedWithItsExitCode) {
  const auto refused = [&](const std::string& store, int code, const std::string& words) {
    const Ended ended = run_command(
        {"coordinator", "node", "--listen", addresses_[0], "--store", store}, folder_.path());
    EXPECT_EQ(ended.exit_code, code) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(words));
  };
  refused("sqlite:node/coordinator.db", kConfiguration, "expected etcd://host:port");
  refused("etcd://127.0.0.1", kConfiguration, "expected host:port");
  refused("etcds://127.0.0.1:2379", kConfiguration, "expected --tls-ca");
  etcd_.end();
  refused(etcd_.address(), kRetry, etcd_.member());
}

}  // namespace
}  // namespace ballot
