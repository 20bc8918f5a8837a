// Jobs whose votes go over NCCL, as a user starts them: real processes under mpirun, the plugin
// that runs the kernels' source on the CPU, and the stand-in of NCCL between them.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>

#include "tests/process/slurm_cluster.h"
#include "tests/process/small_run.h"
#include "tests/process/ssh_nodes.h"
#include "tests/support/free_port.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class Nccl : public SmallRun {
 protected:
  static Environment gpus(int count) {
    return {{"BALLOT_CUDA_PLUGIN", BALLOT_SIMT_PLUGIN},
            {"BALLOT_STAND_IN_DEVICES", std::to_string(count)},
            {"BALLOT_STAND_IN_STREAMS", "eager"},
            {"OMP_WAIT_POLICY", "passive"}};
  }
  // `more` is added to the command's words.
  std::vector<std::string> job(const std::string& output, const std::string& transport,
                               std::int64_t steps,
                               const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words =
        launch(2, output,
               {"train.device=cuda", "train.compute=f32", "vote.schedule=sharded",
                fmt::format("train.steps={}", steps), "train.validation_windows=2"});
    words.insert(words.end(), {"--transport", transport});
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  // A program for hosts that have GPUs, where whoever starts it has none: `ballot` behind the
  // stand-in's environment and these lines of a shell. Its path.
  std::string write_ballot_there(int gpu_count, const std::string& lines = "") const {
    std::string exports;
    for (const auto& [name, value] : gpus(gpu_count))
      exports += fmt::format("export {}={}\n", name, value);
    write("ballot-there",
          fmt::format("#!/bin/sh\n{}{}exec {} \"$@\"\n", exports, lines, BALLOT_BINARY));
    std::filesystem::permissions(file("ballot-there"), std::filesystem::perms::owner_all);
    return file("ballot-there");
  }
};

TEST_F(Nccl, AJobHasTheBitsOfOneWhoseVotesGoOverMpi) {
  const auto run = [this](const std::string& output, const std::string& transport,
                          const std::vector<std::string>& more) {
    const Ended ended = ballot(job(output, transport, 4, more), gpus(2));
    ASSERT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_EQ(metrics(output, "end").back()["replicas_identical"], true);
    expect_same_bits(output + "/checkpoints/latest", "mpi/checkpoints/latest");
  };
  run("mpi", "mpi", {});
  run("nccl", "nccl", {});
  run("lanes", "nccl", {"--set", "vote.schedule=lanes"});
  run("hierarchical", "nccl", {"--set", "vote.schedule=hierarchical", "--set", "vote.node_size=2"});
  const auto there = metrics("nccl", "step"), here = metrics("mpi", "step");
  ASSERT_EQ(there.size(), 4u);
  for (std::size_t i = 0; i < there.size(); ++i)
    EXPECT_EQ(there[i]["loss_metrics/global_avg_loss"], here[i]["loss_metrics/global_avg_loss"]);
}

// A launcher that has no GPU itself and hosts that have: what a cluster's login node is.
TEST_F(Nccl, HostsThatSshReachesAreAskedForGpusAndNcclAndUseThem) {
  if (::geteuid() != 0) GTEST_SKIP() << "an sshd of the test's own needs root";
  const std::string program = write_ballot_there(2);
  const SshNodes nodes({"127.0.0.1"}, test::free_port());
  const auto on_ssh = [&](const std::string& output, int slots) {
    std::vector<std::string> words = job(output, "nccl", 4);
    words.insert(words.end(), {"--on", "ssh", "--hosts", fmt::format("127.0.0.1:{}", slots),
                               "--ssh", nodes.client(), "--program", program});
    return words;
  };
  const Ended ended = ballot(on_ssh("out", 2), {{"BALLOT_JOBS", file("jobs")}});
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, testing::ContainsRegex(", 2 x .*, NCCL [0-9]+\\.[0-9]+\\.[0-9]+\n"));
  EXPECT_EQ(metrics("out", "end").back()["replicas_identical"], true);
  const Ended mpi = ballot(job("mpi", "mpi", 4), gpus(2));
  ASSERT_EQ(mpi.exit_code, 0) << mpi.output;
  expect_same_bits("out/checkpoints/latest", "mpi/checkpoints/latest");

  std::vector<std::string> crowded = on_ssh("crowded", 3);
  crowded[std::find(crowded.begin(), crowded.end(), "--workers") - crowded.begin() + 1] = "3";
  const Ended refused = ballot(crowded, {{"BALLOT_JOBS", file("jobs")}});
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("127.0.0.1: 2 GPUs for 3 workers"));
}

TEST_F(Nccl, SlurmGivesAJobItsGpusAndRefusesOneThatAsksForMore) {
  if (::geteuid() != 0) GTEST_SKIP() << "slurmd starts jobs as their users: needs root";
  const SlurmCluster cluster(2, 2);
  // What Slurm gave is asked for from inside the job, before the launcher starts there.
  const std::string program =
      write_ballot_there(2, fmt::format("[ \"$1\" != launch ] || scontrol --details show job "
                                        "\"$SLURM_JOB_ID\" > '{}' 2>&1\n",
                                        file("given")));
  Environment environment = cluster.environment();
  environment.emplace_back("BALLOT_JOBS", file("jobs"));
  const auto on_slurm = [&](const std::string& output, const std::string& nodes) {
    std::vector<std::string> words = job(output, "nccl", 4);
    words.insert(words.end(), {"--on", "slurm", "--nodes", nodes, "--insecure", "--attach",
                               "--program", program});
    return words;
  };
  const Ended ended = ballot(on_slurm("out", "1"), environment);
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(read("given"), testing::ContainsRegex("Nodes=node[01] .* GRES=gpu:2"));
  EXPECT_THAT(ended.output, testing::ContainsRegex(", 2 x .*, NCCL [0-9]+\\.[0-9]+\\.[0-9]+\n"));
  EXPECT_EQ(metrics("out", "end").back()["replicas_identical"], true);
  const Ended mpi = ballot(job("mpi", "mpi", 4), gpus(2));
  ASSERT_EQ(mpi.exit_code, 0) << mpi.output;
  expect_same_bits("out/checkpoints/latest", "mpi/checkpoints/latest");

  // Three tasks fit on a node; three GPUs do not.
  cluster.run("sbatch --test-only --nodes=1 --ntasks-per-node=3 --wrap=true");
  std::vector<std::string> crowded = on_slurm("crowded", "1");
  crowded[std::find(crowded.begin(), crowded.end(), "--workers") - crowded.begin() + 1] = "3";
  const Ended refused = ballot(crowded, environment);
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("sbatch ended with 1: sbatch: error: "));
  EXPECT_THAT(refused.output, HasSubstr("Requested node configuration is not available"));
  EXPECT_EQ(cluster.run("squeue --noheader"), "");
}

// The machine that it was on may be gone.
TEST_F(Nccl, AJobThatHasLostAWorkerGoesOnWithThoseThatAreLeft) {
  Command running(job("out", "nccl", 12, {"--max-restarts", "1", "--min-workers", "1"}), file("."),
                  gpus(2));
  pid_t victim = 0;
  ASSERT_TRUE(within(60s, [&] {
    const pid_t found = running.worker(1);
    if (found > 0) victim = found;
    return victim > 0 && std::filesystem::exists(file("out/checkpoints/latest"));
  })) << running.output();
  ASSERT_EQ(::kill(victim, SIGKILL), 0);
  const Ended ended = running.wait(120s);
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("starting it again from its newest state with 1 of 2"));
  EXPECT_EQ(metrics("out", "step").back()["step"], 12);
}

// An uncorrectable error of the memory, seen where the host waits; a wrong pointer is our mistake.
TEST_F(Nccl, AGpuThatFailsEndsTheJobWithTheCodeToTryAgain) {
  for (const auto& [code, exit_code] : {std::pair{214, 4}, std::pair{700, 1}}) {
    Environment environment = gpus(2);
    environment.push_back({"BALLOT_STAND_IN_FAIL", fmt::format("cudaEventQuery:40:{}", code)});
    const Ended ended = ballot(job(fmt::format("fails-{}", code), "mpi", 8), environment);
    EXPECT_EQ(ended.exit_code, exit_code) << ended.output;
    EXPECT_EQ(ended.output.find("the GPU is lost") != std::string::npos, exit_code == 4)
        << ended.output;
  }
}

// Without mpirun, which would end the other by itself.
TEST_F(Nccl, BesideGrpcTheDeathOfOneEndsTheOtherWithTheCodeToTryAgain) {
  const std::string port = std::to_string(test::free_port());
  std::vector<std::unique_ptr<Command>> workers;
  for (const std::string rank : {"0", "1"}) {
    Environment environment = gpus(2);
    environment.insert(environment.end(), {{"RANK", rank},
                                           {"LOCAL_RANK", rank},
                                           {"WORLD_SIZE", "2"},
                                           {"LOCAL_WORLD_SIZE", "2"},
                                           {"MASTER_ADDR", "127.0.0.1"},
                                           {"MASTER_PORT", port},
                                           {"BALLOT_TOKEN", "a token for two workers"}});
    std::vector<std::string> words = job("out", "nccl", 100000);
    words.erase(words.begin() + 2, words.begin() + 4);  // --workers 2
    words.front() = "train";
    workers.push_back(std::make_unique<Command>(words, file("."), environment));
  }
  ASSERT_TRUE(within(60s, [&] { return std::filesystem::exists(file("out/checkpoints/latest")); }))
      << workers[0]->output() << workers[1]->output();
  ASSERT_EQ(::kill(workers[1]->id(), SIGKILL), 0);
  const Ended ended = workers[0]->wait(60s);
  EXPECT_EQ(ended.exit_code, 4) << ended.output;
}

TEST_F(Nccl, TheSelfTestVotesBetweenAllGpus) {
  const Ended ended = ballot({"selftest", "--device", "cuda", "--no-rates"}, gpus(3));
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(
      ended.output,
      HasSubstr("between 3 GPUs: 0 of 27 verdicts (sharded, lanes, hierarchical) and 0 of 6 means "
                "differ from the CPU's"));
}

TEST_F(Nccl, WhatItDoesNotCarryIsRefusedBeforeAnythingStarts) {
  const Ended gathered =
      ballot(job("out", "nccl", 4, {"--set", "vote.schedule=gathered"}), gpus(2));
  EXPECT_EQ(gathered.exit_code, 2) << gathered.output;
  EXPECT_THAT(gathered.output, HasSubstr("does not carry vote.schedule = \"gathered\""));
  const Ended members = ballot(job("out", "nccl", 4, {"--set", "vote.members=2"}), gpus(2));
  EXPECT_EQ(members.exit_code, 2) << members.output;
  EXPECT_THAT(members.output, HasSubstr("vote.members"));
  const Ended crowded = ballot(job("out", "nccl", 4), gpus(1));
  EXPECT_EQ(crowded.exit_code, 2) << crowded.output;
  EXPECT_THAT(crowded.output, HasSubstr("2 workers on a machine with 1 GPU"));
  const Ended on_cpu = ballot(job("out", "nccl", 4, {"--set", "train.device=cpu"}), gpus(2));
  EXPECT_EQ(on_cpu.exit_code, 2) << on_cpu.output;
  EXPECT_THAT(on_cpu.output, HasSubstr("transport nccl"));
}

}  // namespace
}  // namespace ballot
