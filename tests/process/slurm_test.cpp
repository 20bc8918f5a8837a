// `ballot launch --on slurm` on a real Slurm of four virtual nodes: submitted, cancelled, killed,
// put back into the queue.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/process/slurm_cluster.h"
#include "tests/process/small_run.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class SlurmTest : public SmallRun {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() == 0) cluster_ = std::make_unique<SlurmCluster>(4);
  }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override {
    if (!cluster_) GTEST_SKIP() << "slurmd starts jobs as their users: needs root";
    SmallRun::SetUp();
  }
  void TearDown() override {
    if (cluster_) cluster_->run("scancel --user=root");
  }

  Environment environment() const {
    Environment all = cluster_->environment();
    all.emplace_back("BALLOT_JOBS", file("jobs"));
    return all;
  }
  Ended submit(const std::string& output, const std::vector<std::string>& more) const {
    std::vector<std::string> words = {"launch", "run.toml", "--on",
                                      "slurm",  "--set",    "output.folder=" + output};
    words.insert(words.end(), more.begin(), more.end());
    return Command(words, file(""), environment()).wait(100s);
  }
  nlohmann::json job(const std::string& output) const {
    std::ifstream source(file(output + "/job.json"));
    return nlohmann::json::parse(source, nullptr, false);
  }
  // Slurm lets two minutes pass before it starts a job again that was put back; here an operator is
  // in a hurry. But not before all nodes are idle, as Slurm takes what it hears of the old script's
  // end for the new one's, nor at once: to a node the job is dead for the rest of that second.
  static void start_soon(const std::string& id) {
    ASSERT_TRUE(within(
        30s, [] { return cluster_->run("sinfo --noheader --states=idle --format=%D") == "4\n"; }));
    cluster_->run("scontrol update JobId=" + id + " StartTime=now+3seconds");
  }
  bool has_ended(const std::string& output) const { return job(output).contains("exit_code"); }
  // The process of a worker of a run, wherever it was started.
  pid_t find_worker(const std::string& variable, const std::string& output) const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename().string();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      const auto holds = [&](const char* what, const std::string& part) {
        std::ifstream source(entry.path() / what, std::ios::binary);
        const std::string all((std::istreambuf_iterator<char>(source)),
                              std::istreambuf_iterator<char>());
        return all.find(part) != std::string::npos;
      };
      if (holds("cmdline", std::string("\0train\0", 7)) &&
          holds("cmdline", "output.folder=" + output) &&
          (holds("environ", variable) || holds("cmdline", variable)))
        return static_cast<pid_t>(std::stol(name));
    }
    return 0;
  }

  static std::unique_ptr<SlurmCluster> cluster_;
};
std::unique_ptr<SlurmCluster> SlurmTest::cluster_;

TEST_F(SlurmTest, ASubmittedJobFinishesWithTheBitsOfALocalOne) {
  const Ended ended = submit("out", {"--workers", "3", "--elastic", "--attach"});
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("node2"));        // the preflight's table
  EXPECT_THAT(ended.output, HasSubstr("worker 2 | "));  // the merged view
  for (const char* log : {"worker-0", "worker-1", "worker-2", "coordinator", "launch"})
    EXPECT_GT(read(std::string("out/logs/") + log + ".log").size(), 0u) << log;
  const auto last = metrics("out", "end");
  ASSERT_EQ(last.size(), 1u);
  EXPECT_TRUE(last[0]["replicas_identical"]);
  EXPECT_EQ(job("out")["exit_code"], 0);
  EXPECT_THAT(ballot({"jobs"}, environment()).output, HasSubstr("done"));

  train(3, "local", {"--elastic"});
  EXPECT_EQ(read("out/checkpoints/step-00000008/model.safetensors"),
            read("local/checkpoints/step-00000008/model.safetensors"));
}

TEST_F(SlurmTest, ScancelDrainsWithACheckpointAndTheJobGoesOnFromIt) {
  const std::vector<std::string> endless = {"--set", "train.steps=100000", "--set",
                                            "train.checkpoint_every=100000"};
  std::vector<std::string> flags = {"--workers", "2", "--insecure"};
  flags.insert(flags.end(), endless.begin(), endless.end());
  const Ended submitted = submit("out", flags);
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 3; })) << read("out/logs/launch.log");
  EXPECT_THAT(ballot({"jobs"}, environment()).output, HasSubstr("running (Slurm job"));

  cluster_->run("scancel " + job("out")["id"].get<std::string>());
  ASSERT_TRUE(within(60s, [&] { return has_ended("out"); })) << read("out/logs/launch.log");
  EXPECT_EQ(job("out")["exit_code"], 4) << read("out/logs/launch.log");
  const std::string latest = std::filesystem::read_symlink(file("out/checkpoints/latest")).string();
  EXPECT_EQ(latest, fmt::format("step-{:08}", last_step("out")));

  const std::int64_t stopped_at = last_step("out");
  const Ended resumed = submit("out", {"--workers", "2", "--insecure", "--resume", "--attach",
                                       "--set", fmt::format("train.steps={}", stopped_at + 3)});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_EQ(last_step("out"), stopped_at + 3);
}

TEST_F(SlurmTest, AKilledWorkerPutsAFixedJobBackIntoTheQueueAndItResumes) {
  const Ended submitted = submit("out", {"--workers", "2", "--insecure", "--retries", "2", "--set",
                                         "train.steps=300", "--set", "train.checkpoint_every=5"});
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 12; })) << read("out/logs/launch.log");
  const pid_t worker = find_worker("RANK=1", "out");
  ASSERT_GT(worker, 0);
  ::kill(worker, SIGKILL);
  const std::string id = job("out")["id"].get<std::string>();
  ASSERT_TRUE(within(60s, [&] {
    return cluster_->run("squeue --noheader --format=%T --jobs=" + id) == "PENDING\n";
  })) << read("out/logs/launch.log");
  EXPECT_THAT(ballot({"jobs"}, environment()).output, HasSubstr("queued (Slurm job"));
  start_soon(id);
  const auto finished = [&] {
    const auto record = job("out");
    return record.value("exit_code", -1) == 0;
  };
  ASSERT_TRUE(within(90s, finished)) << read("out/logs/launch.log") << cluster_->run("squeue");
  EXPECT_THAT(read("out/logs/launch.log"), HasSubstr("back into the queue (1 of 2 retries)"));
  EXPECT_EQ(metrics("out", "run").size(), 2u);  // it was started twice
  // No step is lost, none is made twice. The journal may hold one more than the record tells where
  // the worker died between the two: that one is replayed, and the second start goes on behind it.
  const std::int64_t first_again = metrics("out", "run").back()["first_step"];
  std::int64_t expected = 0;
  for (const auto& step : metrics("out", "step")) {
    if (step["step"] == first_again && expected == first_again - 2) ++expected;
    EXPECT_EQ(step["step"], ++expected);
  }
  EXPECT_EQ(expected, 300);
}

// --signal comes 120 s before the limit, by up to a minute early: Slurm looks twice a minute.
TEST_F(SlurmTest, BeforeItsTimeIsOverAJobDrainsAndGoesOnInItsNextTurn) {
  const Ended submitted =
      submit("out", {"--workers", "2", "--insecure", "--retries", "2", "--time", "3", "--set",
                     "train.steps=1000000", "--set", "train.checkpoint_every=1000000"});
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  const std::string id = job("out")["id"].get<std::string>();
  ASSERT_TRUE(within(120s, [&] {
    return cluster_->run("squeue --noheader --format=%T --jobs=" + id) == "PENDING\n" &&
           last_step("out") > 0;
  })) << read("out/logs/launch.log");
  const std::int64_t drained_at = last_step("out");
  EXPECT_EQ(std::filesystem::read_symlink(file("out/checkpoints/latest")).string(),
            fmt::format("step-{:08}", drained_at));
  EXPECT_THAT(read("out/logs/launch.log"), HasSubstr("back into the queue (1 of 2 retries)"));
  EXPECT_FALSE(has_ended("out"));
  start_soon(id);
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > drained_at; }))
      << read("out/logs/launch.log");
  const Ended stopped = Command({"stop", "out"}, file(""), environment()).wait(60s);
  EXPECT_EQ(stopped.exit_code, 0) << stopped.output;
  EXPECT_EQ(metrics("out", "run").size(), 2u);
  std::int64_t expected = 0;
  for (const auto& step : metrics("out", "step")) EXPECT_EQ(step["step"], ++expected);
}

// Each of them an mpirun of its own inside an srun step.
TEST_F(SlurmTest, VotersOfSeveralMembersHaveTheBitsOfLocalOnes) {
  const std::vector<std::string> shape = {"--workers", "4", "--elastic", "--set", "vote.members=2"};
  std::vector<std::string> flags = shape;
  flags.insert(flags.end(), {"--nodes", "2", "--attach"});
  const Ended ended = submit("out", flags);
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_TRUE(metrics("out", "end").at(0)["replicas_identical"]);
  train(4, "local", {"--elastic", "vote.members=2"});
  EXPECT_EQ(read("out/checkpoints/step-00000008/model.safetensors"),
            read("local/checkpoints/step-00000008/model.safetensors"));
}

TEST_F(SlurmTest, WhereNothingIsRequeuedAnArrayOfTasksGoesOn) {
  const Ended submitted =
      submit("out", {"--workers", "2", "--insecure", "--retries", "2", "--retry", "array", "--set",
                     "train.steps=300", "--set", "train.checkpoint_every=5"});
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 12; })) << read("out/logs/launch.log");
  const pid_t worker = find_worker("RANK=1", "out");
  ASSERT_GT(worker, 0);
  ::kill(worker, SIGKILL);
  ASSERT_TRUE(within(90s, [&] { return cluster_->run("squeue --noheader") == ""; }))
      << read("out/logs/launch.log");
  EXPECT_EQ(job("out")["exit_code"], 0) << read("out/logs/launch.log");
  EXPECT_EQ(last_step("out"), 300);
  EXPECT_EQ(metrics("out", "run").size(), 2u);
  EXPECT_THAT(read("out/logs/launch.log"), HasSubstr("an earlier task of this array has ended"));
}

TEST_F(SlurmTest, AKilledWorkerOfAnElasticJobIsStartedAgainInsideTheAllocation) {
  const Ended submitted =
      submit("out", {"--workers", "3", "--elastic", "--max-restarts", "2", "--set",
                     "train.steps=600", "--set", "train.checkpoint_every=50"});
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 12; })) << read("out/logs/launch.log");
  const pid_t worker = find_worker(std::string("--worker\0", 9) + "1", "out");
  ASSERT_GT(worker, 0);
  ::kill(worker, SIGKILL);
  ASSERT_TRUE(within(90s, [&] { return has_ended("out"); })) << read("out/logs/launch.log");
  EXPECT_EQ(job("out")["exit_code"], 0) << read("out/logs/launch.log");
  EXPECT_THAT(read("out/logs/launch.log"), HasSubstr("worker 1 ended with 137; starting it again"));
  EXPECT_EQ(last_step("out"), 600);
}

TEST_F(SlurmTest, ANodeThatFailsTakesOnlyItsOwnWorkerAlong) {
  const Ended submitted =
      submit("out", {"--workers", "3", "--nodes", "4", "--elastic", "--max-restarts", "3", "--set",
                     "train.steps=1500", "--set", "train.checkpoint_every=300"});
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 12; })) << read("out/logs/launch.log");
  cluster_->kill_node(2);
  ASSERT_TRUE(within(150s, [&] { return has_ended("out"); })) << read("out/logs/launch.log");
  EXPECT_EQ(job("out")["exit_code"], 0) << read("out/logs/launch.log");
  EXPECT_EQ(last_step("out"), 1500);
  cluster_.reset();
  SetUpTestSuite();
}

TEST_F(SlurmTest, StopAsksTheWorkersToLeave) {
  const Ended submitted =
      submit("out", {"--workers", "2", "--insecure", "--set", "train.steps=100000", "--set",
                     "train.checkpoint_every=100000"});
  ASSERT_EQ(submitted.exit_code, 0) << submitted.output;
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 3; })) << read("out/logs/launch.log");
  const Ended stopped = Command({"stop", "out"}, file(""), environment()).wait(60s);
  EXPECT_EQ(stopped.exit_code, 0) << stopped.output;
  EXPECT_THAT(stopped.output, HasSubstr("ended with 4"));
  EXPECT_EQ(std::filesystem::read_symlink(file("out/checkpoints/latest")).string(),
            fmt::format("step-{:08}", last_step("out")));
  const Ended again = Command({"stop", "out"}, file(""), environment()).wait(60s);
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_THAT(again.output, HasSubstr("nothing to stop"));
}

TEST_F(SlurmTest, DryRunPrintsTheScriptAndSubmitsNothing) {
  const Ended shown =
      submit("out", {"--workers", "4", "--nodes", "2", "--elastic", "--max-restarts", "5",
                     "--retries", "3", "--time", "1:00:00", "--sbatch=--exclusive", "--dry-run"});
  ASSERT_EQ(shown.exit_code, 0) << shown.output;
  for (const char* line :
       {"#!/bin/bash\n", "#SBATCH --job-name=out\n", "#SBATCH --nodes=2\n",
        "#SBATCH --ntasks-per-node=2\n", "#SBATCH --time=1:00:00\n", "#SBATCH --requeue\n",
        "#SBATCH --signal=B:USR1@120\n", "#SBATCH --no-kill\n", "#SBATCH --exclusive\n",
        " launch run.toml --on slurm --inside --workers 4 --elastic --max-restarts 5 --retries 3 "
        "--set output.folder=out\n"})
    EXPECT_THAT(shown.output, HasSubstr(line));
  const Ended gpus = submit(
      "out", {"--workers", "4", "--nodes", "2", "--transport", "nccl", "--insecure", "--dry-run"});
  ASSERT_EQ(gpus.exit_code, 0) << gpus.output;
  EXPECT_THAT(gpus.output, HasSubstr("#SBATCH --gres=gpu:2\n"));
  EXPECT_THAT(gpus.output, HasSubstr(" --transport nccl --insecure "));
  EXPECT_FALSE(std::filesystem::exists(file("out")));
  EXPECT_EQ(cluster_->run("squeue --noheader"), "");
}

TEST_F(SlurmTest, WhatContradictsIsRefusedBeforeAnythingIsSubmitted) {
  const auto refused = [&](const std::vector<std::string>& flags, const char* text,
                           Environment more = {}) {
    std::vector<std::string> words = {"launch", "run.toml", "--on", "slurm"};
    words.insert(words.end(), flags.begin(), flags.end());
    for (auto& variable : environment()) more.push_back(variable);
    const Ended ended = Command(words, file(""), more).wait(30s);
    EXPECT_EQ(ended.exit_code, 2) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(text));
  };
  refused({"--workers", "3", "--nodes", "2"}, "--nodes 2: 3 workers are not the same number");
  refused({"--workers", "2"}, "speak gRPC between 2 nodes; expected --tls-ca");
  refused({"--workers", "2", "--transport", "mpi"}, "for MPI launch --on mpirun");
  refused({"--workers", "2", "--transport", "nccl", "--set", "train.device=cpu"},
          "train.device = \"cpu\" is no GPU");
  refused({"--workers", "4", "--min-workers", "2"}, "--min-workers 2: a fixed job");
  refused({"--workers", "2", "--hosts", "a,b"}, "--hosts: is for --on ssh or mpirun");
  refused({"--workers", "2"}, "inside Slurm job 7", {{"SLURM_JOB_ID", "7"}});
  refused({"--workers", "2", "--inside"}, "SLURM_JOB_NODELIST is not set");
  refused({"--workers", "2", "--inside"}, "expected a number", {{"SLURM_JOB_NODELIST", "node[1-"}});
  refused({"--workers", "2", "--insecure", "--sbatch=--nonsense"}, "sbatch ended with");
  EXPECT_EQ(job("out")["exit_code"], 2);  // not one that is awaited for ever
  EXPECT_EQ(cluster_->run("squeue --noheader"), "");
}

}  // namespace
}  // namespace ballot
