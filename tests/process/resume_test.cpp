// Jobs that are killed, stopped or find a damaged checkpoint go on and end with the bits of a job
// that nothing befell.
#include <fmt/format.h>
#include <signal.h>

#include <filesystem>

#include "tests/process/small_run.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

constexpr int kSteps = 60;

// Long enough to be hit in the middle also on a fast machine, short enough to take a second or two
// on a slow one.
class Resume : public SmallRun, public testing::WithParamInterface<int> {
 protected:
  std::vector<std::string> job(const std::string& output, bool resume = false) const {
    std::vector<std::string> settings{"train.steps=" + std::to_string(kSteps),
                                      fmt::format("train.micro_batches={}", micro_batches_),
                                      // A job that drains saves where it stops, which may be
                                      // between the last two that a whole job saves.
                                      "train.keep_checkpoints=3"};
    // Exactly: repeating what was finished after the checkpoint.
    if (resume) settings.push_back("--resume=checkpoint");
    return launch(workers(), output, settings);
  }
  int workers() const { return GetParam(); }
  int micro_batches_ = 4;  // more: slower steps
  void run(const std::string& output, bool resume = false) const {
    const Ended ended = ballot(job(output, resume));
    ASSERT_EQ(ended.exit_code, 0) << ended.output;
  }
  // Returns when the job's first checkpoint is there, with the workers' processes.
  std::vector<pid_t> await_checkpoint(Command& running, const std::string& output) const {
    std::vector<pid_t> processes;
    for (int rank = 0; rank < workers(); ++rank) {
      // What one look found counts: the next may fall into the moment in which a process starts
      // another program.
      pid_t process = 0;
      EXPECT_TRUE(within(30s, [&] {
        process = running.worker(rank);
        return process > 0 || !running.is_running();
      }));
      processes.push_back(process);
    }
    const std::string latest = file(output + "/checkpoints/latest");
    EXPECT_TRUE(within(30s, [&] { return fs::exists(latest) || !running.is_running(); }));
    EXPECT_TRUE(running.is_running()) << running.output();
    return processes;
  }
  static void expect_gone(const std::vector<pid_t>& processes) {
    for (const pid_t process : processes)
      EXPECT_TRUE(within(20s, [&] { return !is_alive(process); }))
          << "process " << process << " is left";
  }
  // Resumes `output` to the end, and then nothing tells it from a job that ran through.
  void expect_as_if_nothing_happened(const std::string& output) const {
    const Ended resumed = ballot(job(output, true));
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_THAT(resumed.output, HasSubstr("resuming after step"));
    EXPECT_THAT(resumed.output,
                Not(HasSubstr("resuming after step " + std::to_string(kSteps) + " ")));
    run("straight");
    expect_same_bits(output + "/checkpoints/latest", "straight/checkpoints/latest");
    const std::string before = "/checkpoints/step-000000" + std::to_string(kSteps - 4);
    expect_same_bits(output + before, "straight" + before);
    const auto steps = metrics(output, "step"), straight = metrics("straight", "step");
    ASSERT_EQ(steps.size(), straight.size());
    for (std::size_t i = 0; i < steps.size(); ++i) {
      EXPECT_EQ(steps[i]["step"], i + 1);
      EXPECT_EQ(steps[i]["tokens_total"], straight[i]["tokens_total"]);
      EXPECT_EQ(steps[i]["loss_metrics/global_avg_loss"],
                straight[i]["loss_metrics/global_avg_loss"]);
    }
    EXPECT_EQ(metrics(output, "end").back()["replicas_identical"], true);
  }
};

TEST_P(Resume, AfterAWorkersDeathTheJobEndsAtOnceNamesItAndGoesOnToTheSameBits) {
  Command running(job("out"), file("."));
  const std::vector<pid_t> processes = await_checkpoint(running, "out");
  const int victim = workers() - 1;
  ASSERT_GT(processes[victim], 1);
  ASSERT_EQ(::kill(processes[victim], SIGKILL), 0);

  const Ended ended = running.wait(30s);
  ASSERT_NE(ended.exit_code, kTimedOut) << ended.output;
  EXPECT_EQ(ended.exit_code, 128 + SIGKILL) << ended.output;
  EXPECT_THAT(ended.output,
              HasSubstr("worker " + std::to_string(victim) + " was lost to signal 9"));
  EXPECT_THAT(ended.output, testing::ContainsRegex("the newest checkpoint is .*step-000000"));
  expect_gone(processes);
  EXPECT_TRUE(metrics("out", "end").empty());  // and every line of the record parses
  expect_as_if_nothing_happened("out");
}

TEST_P(Resume, SigtermEndsTheStepSavesAndGoesOnToTheSameBits) {
  Command running(job("out"), file("."));
  await_checkpoint(running, "out");
  running.send(SIGTERM);
  const Ended ended = running.wait(30s);
  EXPECT_EQ(ended.exit_code, 4) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("as asked; --resume goes on from there"));
  // Saved where it stopped, wherever that was.
  const auto steps = metrics("out", "step"), checkpoints = metrics("out", "checkpoint"),
             ends = metrics("out", "end");
  ASSERT_FALSE(steps.empty());
  EXPECT_LT(steps.back()["step"], kSteps);
  EXPECT_EQ(checkpoints.back()["step"], steps.back()["step"]);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0]["step"], steps.back()["step"]);
  expect_as_if_nothing_happened("out");
}

// mpirun, whose parent is gone, gives its workers another second before it ends them: the job must
// not end in it.
TEST_P(Resume, AfterTheLaunchersDeathNoWorkerIsLeftAndTheJobGoesOnToTheSameBits) {
  micro_batches_ = 16;
  Command running(job("out"), file("."));
  const std::vector<pid_t> processes = await_checkpoint(running, "out");
  for (const pid_t process : processes) ASSERT_GT(process, 1);
  running.send(SIGKILL);
  EXPECT_EQ(running.wait(30s).exit_code, 128 + SIGKILL);
  expect_gone(processes);
  expect_as_if_nothing_happened("out");
}

// Every step is there once, whatever was lost: the journal holds those after the checkpoint.
TEST_P(Resume, AfterAWorkersDeathTheLauncherStartsTheJobAgainAndNoStepIsLost) {
  std::vector<std::string> arguments = job("out");
  arguments.insert(arguments.end(), {"--max-restarts", "1"});
  Command running(arguments, file("."));
  const std::vector<pid_t> processes = await_checkpoint(running, "out");
  ASSERT_EQ(::kill(processes[0], SIGKILL), 0);
  const Ended ended = running.wait(60s);
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("starting it again from its newest state (1 of 1 restarts)"));
  const auto steps = metrics("out", "step");
  EXPECT_EQ(steps.back()["step"], kSteps);
  EXPECT_EQ(metrics("out", "end").back()["replicas_identical"], true);
}

// The machine that it was on may be gone.
TEST_P(Resume, WithFewerWorkersAllowedTheJobGoesOnWithThoseThatAreLeft) {
  std::vector<std::string> arguments = job("out");
  arguments.insert(arguments.end(), {"--max-restarts", "2", "--min-workers", "1"});
  Command running(arguments, file("."));
  const std::vector<pid_t> processes = await_checkpoint(running, "out");
  ASSERT_EQ(::kill(processes[0], SIGKILL), 0);
  const Ended ended = running.wait(60s);
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr(fmt::format("starting it again from its newest state with {} "
                                                  "of {} workers (1 of 2 restarts)",
                                                  workers() - 1, workers())));
  const auto steps = metrics("out", "step");
  EXPECT_EQ(steps.back()["step"], kSteps);
  EXPECT_EQ(metrics("out", "run").back()["workers"], workers() - 1);
  EXPECT_EQ(metrics("out", "end").back()["replicas_identical"], true);
}

// Neither dead nor alive: the others must not wait for ever, nor for a message half arrived.
TEST_P(Resume, AFrozenWorkerIsNamedAtTheDeadlineAndTheJobGoesOnToTheSameBits) {
  std::vector<std::string> arguments = job("out");
  arguments.insert(arguments.end(), {"--set", "vote.deadline_seconds=10"});
  Command running(arguments, file("."));
  const std::vector<pid_t> processes = await_checkpoint(running, "out");
  const int victim = workers() - 1;
  ASSERT_GT(processes[victim], 1);
  ASSERT_EQ(::kill(processes[victim], SIGSTOP), 0);

  const Ended ended = running.wait(60s);
  EXPECT_EQ(ended.exit_code, 4) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("rank " + std::to_string(victim)));
  EXPECT_THAT(ended.output, HasSubstr("deadline"));
  expect_gone(processes);
  expect_as_if_nothing_happened("out");
}

INSTANTIATE_TEST_SUITE_P(Workers, Resume, testing::Values(2, 4),
                         [](const auto& case_of) { return "Of" + std::to_string(case_of.param); });

using DamagedCheckpoint = SmallRun;

TEST_F(DamagedCheckpoint, OfTheNewestIsNamedAndTheOneBeforeIsTaken) {
  for (const std::string part :
       {"model.safetensors", "trainer/voter-1.safetensors", "trainer/state.json"}) {
    SCOPED_TRACE(part);
    fs::remove_all(file("out"));
    train(2, "out");
    fs::copy(file("out/checkpoints/step-00000008"), file("whole"),
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    damage("out/checkpoints/step-00000008/" + part);
    const std::string output = train(2, "out", {"--resume=checkpoint"});
    EXPECT_THAT(output, testing::ContainsRegex(
                            "warning.*step-00000008 is damaged and is passed over: .*" + part));
    EXPECT_THAT(output, HasSubstr("resuming after step 4 from"));
    expect_same_bits("out/checkpoints/step-00000008", "whole");
  }
}

TEST_F(DamagedCheckpoint, OfAllIsRefused) {
  train(2, "out");
  fs::remove(file("out/checkpoints/step-00000004/trainer/manifest.json"));
  fs::resize_file(file("out/checkpoints/step-00000008/trainer/replicated.safetensors"), 100);
  const Ended ended = ballot(launch(2, "out", {"--resume"}));
  EXPECT_EQ(ended.exit_code, 2) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("holds no whole checkpoint"));
  EXPECT_THAT(ended.output,
              Not(HasSubstr("was lost")));  // mpirun kills the workers left: they are not the cause
  EXPECT_THAT(ended.output,
              testing::ContainsRegex("step-00000008 is damaged.*replicated.safetensors"));
  EXPECT_THAT(ended.output, testing::ContainsRegex("step-00000004 is damaged.*manifest.json"));
  EXPECT_EQ(metrics("out", "step").size(), 8u);  // the record is left as it was
}

TEST_F(DamagedCheckpoint, IsNotWhatAKillDuringASaveLeaves) {
  train(2, "out");
  fs::create_directories(file("out/checkpoints/.step-00000012.partial/trainer"));
  write("out/checkpoints/.step-00000012.partial/model.safetensors", "half a file");
  const std::string output = train(2, "out", {"train.steps=12", "--resume"});
  EXPECT_THAT(output, Not(HasSubstr("damaged")));
  EXPECT_THAT(output, HasSubstr("resuming after step 8 from"));
  EXPECT_EQ(fs::read_symlink(file("out/checkpoints/latest")), "step-00000012");
  EXPECT_FALSE(fs::exists(file("out/checkpoints/.step-00000012.partial")));
}

}  // namespace
}  // namespace ballot
