// Jobs that are killed at any moment while they save all the time: a whole checkpoint is there
// whenever there was one, and the job goes on from it to the bits of one that nothing befell.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <thread>

#include "tests/process/small_run.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

constexpr int kSteps = 800;

class SavingAllTheTime : public SmallRun {
 protected:
  std::vector<std::string> job(const std::string& output) const {
    return launch(2, output,
                  {"train.steps=" + std::to_string(kSteps), "train.checkpoint_every=1",
                   "checkpoint.shard_mib=0", "journal.sync_every_ms=1", "data.validation="});
  }
  // The newest step that has a checkpoint; -1: none.
  std::int64_t newest(const std::string& output) const {
    std::int64_t step = -1;
    const std::string folder = file(output + "/checkpoints");
    if (!fs::exists(folder)) return step;
    for (const auto& entry : fs::directory_iterator(folder))
      if (const std::string name = entry.path().filename().string(); name.starts_with("step-"))
        step = std::max<std::int64_t>(step, std::stoll(name.substr(5)));
    return step;
  }
  // A moment after the job has published something, or has ended.
  void wait_for_a_moment(Command& running, std::int64_t after, std::mt19937& random) const {
    EXPECT_TRUE(within(60s, [&] { return newest("out") > after || !running.is_running(); }));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
  }
};

// Whoever is killed: one worker (the launcher ends the others), or all at once with the launcher.
TEST_F(SavingAllTheTime, AKillAtAnyMomentLeavesAWholeCheckpointAndTheJobEndsWithTheSameBits) {
  const auto seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::int64_t before = -1;
  int kills = 0;
  while (kills < 8 && before < kSteps - 40) {
    std::vector<std::string> arguments = job("out");
    if (before >= 0) arguments.push_back("--resume=checkpoint");
    Command running(arguments, file("."));
    wait_for_a_moment(running, before + static_cast<std::int64_t>(random() % 30), random);
    const std::vector<pid_t> workers = {running.worker(0), running.worker(1)};
    if (const pid_t victim = workers[random() % 2]; victim > 1 && random() % 2 == 0)
      ::kill(victim, SIGKILL);
    else
      running.send(SIGKILL);
    const Ended ended = running.wait(60s);
    ASSERT_NE(ended.exit_code, kTimedOut) << ended.output;
    for (const pid_t worker : workers)
      EXPECT_TRUE(within(20s, [&] { return worker <= 1 || !is_alive(worker); }));
    ++kills;
    EXPECT_THAT(ended.output, Not(HasSubstr("is damaged")));
    // Never less than there was: what was published stays.
    EXPECT_GE(newest("out"), before);
    before = newest("out");
  }
  EXPECT_GE(kills, 3);
  std::vector<std::string> arguments = job("out");
  arguments.push_back("--resume=checkpoint");
  const Ended last = Command(arguments, file(".")).wait(280s);
  ASSERT_EQ(last.exit_code, 0) << last.output;
  EXPECT_THAT(last.output, Not(HasSubstr("is damaged")));
  EXPECT_THAT(last.output, HasSubstr("resuming after step " + std::to_string(before)));
  const Ended straight = Command(job("straight"), file(".")).wait(280s);
  ASSERT_EQ(straight.exit_code, 0) << straight.output;
  for (const int step : {kSteps - 1, kSteps}) {
    char name[32];
    std::snprintf(name, sizeof name, "/checkpoints/step-%08d", step);
    for (const std::string part :
         {"model-00001-of-00002", "model-00002-of-00002", "trainer/voter-0", "trainer/voter-1"}) {
      EXPECT_TRUE(read(std::string("out") + name + "/" + part + ".safetensors") ==
                  read(std::string("straight") + name + "/" + part + ".safetensors"))
          << part << " of step " << step;
    }
  }
  // Nothing that was cut off is left.
  for (const auto& entry : fs::directory_iterator(file("out/checkpoints")))
    EXPECT_THAT(entry.path().filename().string(), Not(testing::StartsWith(".step"))) << entry;
}

}  // namespace
}  // namespace ballot
