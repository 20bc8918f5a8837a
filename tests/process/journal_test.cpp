// Jobs of real workers that are killed go on without losing a finished step, and any step of their
// journal is rebuilt by a process of its own.
#include <fmt/format.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "tests/process/small_run.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;

class Journal : public SmallRun {
 protected:
  nlohmann::json replay(const std::string& output,
                        const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words{"replay", output, "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const Ended ended = ballot(words);
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    const std::size_t begin = ended.output.find("{\"run\"");
    EXPECT_NE(begin, std::string::npos) << ended.output;
    return begin == std::string::npos ? nlohmann::json()
                                      : nlohmann::json::parse(ended.output.substr(begin));
  }
  nlohmann::json state(const std::string& checkpoint) const {
    return nlohmann::json::parse(read(checkpoint + "/trainer/state.json"));
  }
  // Kills one worker of a running job once it has made its `step`th step.
  void kill_in_the_middle(const std::vector<std::string>& job, const std::string& output,
                          int victim, int steps) const {
    Command running(job, file("."));
    const auto lines = [&] {
      std::ifstream record(file(output + "/metrics.jsonl"));
      int count = 0;
      for (std::string line; std::getline(record, line);)
        count += line.find("\"type\":\"step\"") != std::string::npos;
      return count;
    };
    EXPECT_TRUE(within(60s, [&] { return lines() >= steps || !running.is_running(); }));
    ASSERT_TRUE(running.is_running()) << running.output();
    pid_t process = 0;
    EXPECT_TRUE(within(30s, [&] { return (process = running.worker(victim)) > 0; }));
    ASSERT_GT(process, 1);
    ASSERT_EQ(::kill(process, SIGKILL), 0);
    const Ended ended = running.wait(60s);
    EXPECT_EQ(ended.exit_code, 128 + SIGKILL) << ended.output;
  }
};

// Written by three processes over MPI, rebuilt by one.
TEST_F(Journal, IsReplayedInAnotherProcessToTheSameBits) {
  train(3, "out");
  fs::remove_all(file("out/checkpoints/step-00000008"));  // or there would be nothing to do
  const nlohmann::json result = replay("out", {"--output", "rebuilt"});
  EXPECT_EQ(result["from_step"], 4);
  EXPECT_EQ(result["to_step"], 8);
  EXPECT_EQ(result["steps"], 4);
  EXPECT_EQ(result["proved"], 4);
  EXPECT_EQ(result["last_proved"], true);
  train(3, "again");  // the same run, whole
  EXPECT_EQ(result["parameters"], state("again/checkpoints/latest")["digest"]);
  EXPECT_EQ(result["chain"], state("again/checkpoints/latest")["journal_chain"]);
  EXPECT_TRUE(read("rebuilt/model.safetensors") ==
              read("again/checkpoints/latest/model.safetensors"));
  const Ended evaluated =
      ballot({"eval", "--model", "rebuilt", "--data", "held-out.txt", "--seq-len", "32", "--json"});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
}

TEST_F(Journal, AWorkersDeathCostsNoStepThatWasWritten) {
  constexpr int kSteps = 60;
  std::vector<std::string> settings{"train.steps=60", "train.checkpoint_every=20",
                                    "train.micro_batches=4", "journal.sync_every_ms=20"};
  for (const int victim : {0, 2}) {
    SCOPED_TRACE(victim);
    fs::remove_all(file("out"));
    kill_in_the_middle(launch(3, "out", settings), "out", victim, 27);
    const auto before = metrics("out", "step");
    // That of step 20, but where the machine is fast and the kill late.
    const std::string latest = fs::read_symlink(file("out/checkpoints/latest")).string();
    const nlohmann::json replayed = replay("out");
    const auto finished = replayed["to_step"].get<int>();
    // A record is given to the writer's thread before the step has its line. What that thread has
    // not written goes with the process: a step or two where the machine is busy.
    EXPECT_GE(finished, before.back()["step"].get<int>() - 5);
    EXPECT_LE(finished, before.back()["step"].get<int>() + 1);

    std::vector<std::string> job = launch(3, "out", settings);
    job.push_back("--resume");
    const Ended resumed = ballot(job);
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_THAT(resumed.output, HasSubstr(fmt::format("replayed steps {} to {} ",
                                                      std::stoi(latest.substr(5)) + 1, finished)));
    EXPECT_EQ(metrics("out", "run").back()["first_step"], finished);
    const auto steps = metrics("out", "step");
    EXPECT_GE(steps.size(), static_cast<std::size_t>(kSteps - 1));
    EXPECT_EQ(steps.back()["step"], kSteps);
    EXPECT_EQ(steps.back()["tokens_total"], kSteps * 3 * 2 * 4 * 32);
    EXPECT_EQ(metrics("out", "end").back()["replicas_identical"], true);
    EXPECT_EQ(state("out/checkpoints/latest")["sample_counter"], kSteps * 3 * 2 * 4);
    EXPECT_EQ(replay("out")["parameters"], state("out/checkpoints/latest")["digest"]);
  }
}

TEST_F(Journal, ReplaySaysWhatItCannotDo) {
  const auto expect = [](const Ended& ended, int exit_code, const std::string& words) {
    EXPECT_EQ(ended.exit_code, exit_code) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(words));
  };
  train(2, "out");
  expect(ballot({"replay", "out", "--to-step", "3"}), 2,
         "no whole checkpoint from which the journal leads to step 3");
  expect(ballot({"replay", "out", "--to-step", "9"}), 2, "step 9");
  expect(ballot({"replay", "nowhere"}), 2, "nowhere/run.toml");
  expect(ballot({"replay", "out", "--output", "model"}), 2, "not empty");
  expect(ballot({"replay", "--help"}), 0, "--to-step");
  damage("out/journal/worker-1/000000000005.journal");
  const Ended damaged = ballot({"replay", "out", "--to-step", "7"});
  expect(damaged, 2, "damaged at byte");
  train(2, "none", {"journal.enabled=off"});
  expect(ballot({"replay", "none"}), 2, "holds no journal");
  // Not the same as what was trained: the checkpoint's parameters are proved first.
  fs::copy(file("model/model.safetensors"), file("out/checkpoints/step-00000008/model.safetensors"),
           fs::copy_options::overwrite_existing);
  fs::remove_all(file("out/checkpoints/step-00000004"));
  expect(ballot({"replay", "out"}), 2, "no whole checkpoint");
}

}  // namespace
}  // namespace ballot
