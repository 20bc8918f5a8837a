// Elastic runs of voters of several members as a user starts them: `ballot launch --elastic` with
// vote.members, whose processes are killed one by one.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <charconv>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "tests/process/small_run.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr int kRetry = 4;  // core/error.h
constexpr std::int64_t kEndless = 1'000'000;

class ElasticMembers : public SmallRun {
 protected:
  static std::vector<std::string> words(std::int64_t steps) {
    return {"launch",
            "run.toml",
            "--workers",
            "4",
            "--elastic",
            "--max-restarts",
            "4",
            "--set",
            "vote.members=2",
            "--set",
            fmt::format("train.steps={}", steps),
            "--set",
            "train.checkpoint_every=50",
            "--set",
            "vote.deadline_seconds=60"};
  }
  // Of the run's record, as far as it is written.
  std::int64_t last_step() const {
    std::ifstream record(file("out/metrics.jsonl"));
    std::int64_t last = -1;
    for (std::string line; std::getline(record, line);) {
      const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
      if (parsed.is_object() && parsed.value("type", "") == "step") last = parsed["step"];
    }
    return last;
  }
  bool goes_on(const Command& job, std::int64_t steps) const {
    const std::int64_t from = std::max<std::int64_t>(0, last_step());
    const bool there = within(120s, [&] { return last_step() >= from + steps; });
    EXPECT_TRUE(there) << "at step " << last_step() << " after " << from << "\n" << job.output();
    return there;
  }
  static std::vector<pid_t> children_of(pid_t parent) {
    std::vector<pid_t> children;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      pid_t id = 0;
      if (std::from_chars(name.data(), name.data() + name.size(), id).ptr !=
          name.data() + name.size())
        continue;
      std::ifstream file(entry.path() / "stat");
      std::string line;
      if (!std::getline(file, line)) continue;
      const std::size_t after_name = line.rfind(')');
      char state = 0;
      int found = 0;
      if (after_name != std::string::npos &&
          std::sscanf(line.c_str() + after_name + 1, " %c %d", &state, &found) == 2 &&
          found == parent && state != 'Z')
        children.push_back(id);
    }
    std::ranges::sort(children);
    return children;
  }
  // The processes of a voter below its mpirun; it has two.
  static std::vector<pid_t> members_of(const Command& job, int voter) {
    const pid_t mpirun = job.child("--worker", std::to_string(voter));
    std::vector<pid_t> members;
    if (mpirun > 0) members = children_of(mpirun);
    return members;
  }
};

TEST_F(ElasticMembers, AKilledMemberOrItsMpirunEndsItsVoterAloneWhichComesBack) {
  Command job(words(kEndless), file(""), {{"OMP_NUM_THREADS", "1"}});
  ASSERT_TRUE(goes_on(job, 5));
  // The first member of one voter, the second of the other, and a whole mpirun.
  for (const int victim : {0, 1, 2}) {
    const int voter = victim % 2;
    const std::vector<pid_t> before = members_of(job, voter);
    ASSERT_EQ(before.size(), 2u) << job.output();
    ::kill(victim == 2 ? job.child("--worker", std::to_string(voter))
                       : before[static_cast<std::size_t>(victim)],
           SIGKILL);
    ASSERT_TRUE(within(60s, [&] {
      const std::vector<pid_t> now = members_of(job, voter);
      return now.size() == 2 && now[0] != before[0] && now[1] != before[1];
    })) << job.output();
    for (const pid_t id : before)
      EXPECT_TRUE(within(20s, [&] { return !is_alive(id); })) << "member " << id << " lives on";
    ASSERT_TRUE(goes_on(job, 20));
  }
  job.send(SIGTERM);
  const Ended stopped = job.wait(150s);
  ASSERT_EQ(stopped.exit_code, kRetry) << stopped.output;

  // It goes on where it was, to an end.
  const std::int64_t end = last_step() + 20;
  std::vector<std::string> both = words(end);
  both.insert(both.end(), {"--min-workers", "2"});  // none ends before the other has come
  const Ended ended = ballot(both, {{"OMP_NUM_THREADS", "1"}});
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  const std::string folder = fmt::format("out/checkpoints/step-{:08}/trainer/", end);
  for (const char* name :
       {"voter-0-member-0", "voter-0-member-1", "voter-1-member-0", "voter-1-member-1"})
    EXPECT_TRUE(std::filesystem::exists(file(folder + name + ".safetensors"))) << name;
  const Ended replayed = ballot({"replay", "out", "--to-step", std::to_string(end)});
  EXPECT_EQ(replayed.exit_code, 0) << replayed.output;
}

TEST_F(ElasticMembers, WorkersThatCannotBeCutIntoVotersAreRefused) {
  const Ended ended =
      ballot({"launch", "run.toml", "--workers", "3", "--elastic", "--set", "vote.members=2"});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.output,
              HasSubstr("vote.members = 2: 3 workers cannot be cut into voters of 2"));
}

}  // namespace
}  // namespace ballot
