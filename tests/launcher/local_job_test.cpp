// A job under the real mpirun, with small shells for workers.
#include "launcher/local_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "launcher/child_process.h"
#include "launcher/line_output.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

class LocalJobTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!find_program("mpirun")) GTEST_SKIP() << "needs mpirun (openmpi-bin)";
    char name[] = "/tmp/ballot-local-job-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  LocalJob shells(int workers, const std::string& script) {
    LocalJob job;
    job.command = {"/bin/sh", "-c", "r=$OMPI_COMM_WORLD_RANK; " + script};
    job.workers = workers;
    job.log_folder = folder_ + "/logs";
    job.forward_output = false;
    return job;
  }
  std::string read(const std::string& name) {
    std::ifstream file(folder_ + "/" + name);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  std::string log(int rank) { return read("logs/worker-" + std::to_string(rank) + ".log"); }
  // Runs the job in a process of its own, so that it can be signalled; exit code 99: lost was set.
  pid_t start(const LocalJob& job) {
    const pid_t id = ::fork();
    if (id == 0) {
      const JobResult result = run_local_job(job);
      ::_exit(result.lost ? 99 : result.exit_code);
    }
    return id;
  }
  static bool within(std::chrono::milliseconds limit, const std::function<bool()>& holds) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < end) {
      if (holds()) return true;
      std::this_thread::sleep_for(20ms);
    }
    return holds();
  }
  static std::optional<int> wait_for(pid_t id, std::chrono::milliseconds limit) {
    int status = 0;
    if (within(limit, [&] { return ::waitpid(id, &status, WNOHANG) == id; }))
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    ::kill(id, SIGKILL);
    ::waitpid(id, &status, 0);
    return std::nullopt;
  }
  std::string folder_;
};

int open_descriptors() {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

bool is_alive(pid_t id) {  // a zombie of somebody else is dead
  std::ifstream file("/proc/" + std::to_string(id) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return false;
  return line.substr(line.rfind(')') + 2, 1) != "Z";
}

TEST_F(LocalJobTest, LinesCarryTheirWorkersNameAndLieInItsLog) {
  LocalJob job = shells(2, "echo out of $r; echo err of $r >&2; printf 'no end %s' $r");
  job.forward_output = true;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const JobResult result = run_local_job(job);
  const std::string errors = testing::internal::GetCapturedStderr();
  const std::string output = testing::internal::GetCapturedStdout();
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_FALSE(result.lost);
  for (const std::string rank : {"0", "1"}) {
    EXPECT_THAT(output, HasSubstr("worker " + rank + " | out of " + rank + "\n"));
    EXPECT_THAT(output, HasSubstr("worker " + rank + " | no end " + rank + "\n"));
    EXPECT_THAT(errors, HasSubstr("worker " + rank + " | err of " + rank + "\n"));
  }
  EXPECT_THAT(log(0), testing::AllOf(HasSubstr("out of 0\n"), HasSubstr("err of 0\n"),
                                     HasSubstr("no end 0\n")));
  EXPECT_THAT(log(0), Not(HasSubstr("of 1")));
  EXPECT_THAT(log(1), HasSubstr("err of 1\n"));
}

TEST_F(LocalJobTest, NoLineIsLostOrMixedInABurst) {
  const JobResult result = run_local_job(shells(2, "seq 1 20000"));
  EXPECT_EQ(result.exit_code, 0);
  std::string expected;
  for (int i = 1; i <= 20000; ++i) expected += std::to_string(i) + "\n";
  EXPECT_TRUE(log(0) == expected);
  EXPECT_TRUE(log(1) == expected);
}

TEST_F(LocalJobTest, WorkersSeeTheirThreadsAndArgumentsAsGiven) {
  LocalJob job = shells(2, "");
  job.threads_per_worker = 3;
  job.command = {"/bin/sh",
                 "-c",
                 "echo \"$OMP_NUM_THREADS $OMP_WAIT_POLICY $OMPI_COMM_WORLD_SIZE <$1> <$2>\"",
                 "sh",
                 "a b'c\"d",
                 "$HOME"};
  run_local_job(job);
  EXPECT_EQ(log(1), "3 passive 2 <a b'c\"d> <$HOME>\n");
}

TEST_F(LocalJobTest, AWorkersOwnExitCodeIsTheJobs) {
  const JobResult result = run_local_job(shells(3, "if [ $r = 1 ]; then exit 3; fi; sleep 60"));
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_FALSE(result.lost);
}

TEST_F(LocalJobTest, ACommandThatIsNotThereIsSaidInTheLog) {
  LocalJob job = shells(1, "");
  job.command = {"/no/such/worker"};
  EXPECT_EQ(run_local_job(job).exit_code, 127);
  EXPECT_THAT(log(0), HasSubstr("/no/such/worker"));
}

TEST_F(LocalJobTest, AKilledWorkerIsNamedWithinSeconds) {
  const auto start_time = std::chrono::steady_clock::now();
  const JobResult result = run_local_job(shells(3, "if [ $r = 2 ]; then kill -9 $$; fi; sleep 60"));
  EXPECT_EQ(result.exit_code, 128 + SIGKILL);
  ASSERT_TRUE(result.lost);
  EXPECT_EQ(result.lost->rank, 2);
  EXPECT_EQ(result.lost->signal, SIGKILL);
  EXPECT_LT(std::chrono::steady_clock::now() - start_time, 10s);
}

TEST_F(LocalJobTest, ASegmentationFaultIsNamed) {
  const JobResult result =
      run_local_job(shells(2, "if [ $r = 0 ]; then kill -SEGV $$; fi; sleep 60"));
  ASSERT_TRUE(result.lost);
  EXPECT_EQ(result.lost->rank, 0);
  EXPECT_EQ(result.lost->signal, SIGSEGV);
  EXPECT_EQ(result.exit_code, 128 + SIGSEGV);
}

// One worker: when several end, mpirun may kill the second before it has acted on its own signal.
TEST_F(LocalJobTest, SigtermReachesTheWorkerAndIsTheExitCode) {
  const pid_t launcher =
      start(shells(1, "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.1; done"));
  ASSERT_TRUE(within(10s, [&] { return log(0) == "ready\n"; })) << log(0);
  ::kill(launcher, SIGTERM);
  EXPECT_EQ(wait_for(launcher, 10s), 128 + SIGTERM);
  EXPECT_THAT(log(0), HasSubstr("told\n"));  // beside what the shell says of its sleep
}

TEST_F(LocalJobTest, DrainingWorkersEndByThemselvesWithTheirOwnCode) {
  // Longer than the second that mpirun leaves after SIGTERM.
  LocalJob job = shells(1,
                        "trap 'echo saving; sleep 1.5; echo saved; exit 4' USR1; echo ready; while "
                        ":; do sleep 0.1; done");
  job.drain_signal = SIGUSR1;
  const pid_t launcher = start(job);
  ASSERT_TRUE(within(10s, [&] { return log(0) == "ready\n"; }));
  ::kill(launcher, SIGTERM);
  EXPECT_EQ(wait_for(launcher, 10s), 4);
  EXPECT_THAT(log(0), testing::AllOf(HasSubstr("saving\n"), testing::EndsWith("saved\n")));
}

TEST_F(LocalJobTest, WorkersThatDoNotDrainAreEnded) {
  LocalJob job = shells(1, "trap '' USR1; echo ready; sleep 60");
  job.drain_signal = SIGUSR1;
  job.drain_deadline = 300ms;
  const pid_t launcher = start(job);
  ASSERT_TRUE(within(10s, [&] { return log(0) == "ready\n"; }));
  ::kill(launcher, SIGTERM);
  EXPECT_EQ(wait_for(launcher, 10s), 128 + SIGTERM);
}

TEST_F(LocalJobTest, ASecondInterruptKillsAtOnce) {
  // mpirun is stopped, so that nothing but the launcher itself can end the workers.
  const pid_t launcher = start(shells(2, "trap '' TERM; echo $$ $PPID; sleep 60; sleep 60"));
  ASSERT_TRUE(within(10s, [&] { return !log(0).empty() && !log(1).empty(); }));
  pid_t worker = 0, mpirun = 0;
  std::istringstream(log(0)) >> worker >> mpirun;
  ASSERT_GT(mpirun, 1);
  ::kill(mpirun, SIGSTOP);
  ::kill(launcher, SIGINT);
  std::this_thread::sleep_for(300ms);
  EXPECT_TRUE(is_alive(worker));
  ::kill(launcher, SIGINT);
  EXPECT_EQ(wait_for(launcher, 5s), 128 + SIGINT);
  EXPECT_TRUE(within(2s, [&] { return !is_alive(worker) && !is_alive(mpirun); }));
}

TEST_F(LocalJobTest, AJobThatDoesNotEndIsKilledAtTheDeadline) {
  LocalJob job = shells(1, "echo $$ $PPID; sleep 60");
  job.end_deadline = 500ms;
  const pid_t launcher = start(job);
  ASSERT_TRUE(within(10s, [&] { return !log(0).empty(); }));
  pid_t worker = 0, mpirun = 0;
  std::istringstream(log(0)) >> worker >> mpirun;
  ::kill(mpirun, SIGSTOP);
  ::kill(launcher, SIGTERM);
  EXPECT_EQ(wait_for(launcher, 5s), 128 + SIGTERM);
  EXPECT_TRUE(within(2s, [&] { return !is_alive(worker); }));
}

TEST_F(LocalJobTest, TheJobEndsWithItsLauncher) {
  const pid_t launcher = start(shells(2, "echo $$; exec sleep 60"));
  ASSERT_TRUE(within(10s, [&] { return !log(0).empty() && !log(1).empty(); }));
  const pid_t workers[] = {std::stoi(log(0)), std::stoi(log(1))};
  ::kill(launcher, SIGKILL);
  ::waitpid(launcher, nullptr, 0);
  for (const pid_t worker : workers) EXPECT_TRUE(within(10s, [&] { return !is_alive(worker); }));
}

TEST_F(LocalJobTest, LeavesNoDescriptorNoChildAndTheSignalsAsTheyWere) {
  sigset_t before, after;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &before);
  const int descriptors = open_descriptors();
  run_local_job(shells(2, "true"));
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD})
    EXPECT_EQ(::sigismember(&before, signal), ::sigismember(&after, signal));
}

TEST_F(LocalJobTest, WithoutMpirunThePackageIsNamed) {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  try {
    run_local_job(shells(1, "true"));
    ADD_FAILURE() << "it ran";
  } catch (const Unavailable& error) {
    EXPECT_THAT(error.what(), HasSubstr("openmpi-bin"));
  }
  ::setenv("PATH", path.c_str(), 1);
}

TEST(LostRankLine, IsReadAndNothingElseIs) {
  const auto lost = parse_lost_rank(
      "mpirun noticed that process rank 12 with PID 0 on node vm exited on signal 11 (Segmentation "
      "fault).");
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->rank, 12);
  EXPECT_EQ(lost->signal, 11);
  EXPECT_FALSE(parse_lost_rank("mpirun noticed that process rank x exited on signal 9"));
  EXPECT_FALSE(parse_lost_rank("mpirun noticed that process rank 1"));
  EXPECT_FALSE(parse_lost_rank("process rank 1 exited on signal 9"));
}

std::vector<std::string> cut(const std::vector<std::string>& pieces) {
  std::vector<std::string> lines;
  LineCutter cutter([&](std::string_view line, bool progress) {
    lines.push_back(std::string(line) + (progress ? "~" : ""));
  });
  for (const std::string& piece : pieces) cutter.add(piece);
  cutter.finish();
  return lines;
}

TEST(LineCutter, EndsLinesAtNewlineAndCarriageReturn) {
  EXPECT_EQ(cut({"a\nb\r", "\nc\rd\r", "e", "f\n\ng"}),
            (std::vector<std::string>{"a", "b", "c~", "d~", "ef", "", "g"}));
  EXPECT_EQ(cut({std::string(LineCutter::kLongestLine + 1, 'x')}).size(), 2u);
}

RC_GTEST_PROP(LineCutter, PiecesDoNotChangeTheLines, ()) {
  const auto text = *rc::gen::container<std::string>(rc::gen::element('a', 'b', '\n', '\r'));
  std::vector<std::string> bytes;
  for (const char byte : text) bytes.emplace_back(1, byte);
  RC_ASSERT(cut({text}) == cut(bytes));
}

TEST_F(LocalJobTest, ProgressIsThinnedAndItsLastStateKept) {
  run_local_job(shells(
      1,
      "i=0; while [ $i -lt 200 ]; do printf 'step %s\\r' $i; i=$((i+1)); done; printf 'done\\n'"));
  // One a second is kept: more than two only where the machine stands still meanwhile.
  EXPECT_THAT(log(0), testing::StartsWith("step 0\n"));
  EXPECT_THAT(log(0), testing::EndsWith("\nstep 199\ndone\n"));
  const std::string kept = log(0);
  EXPECT_LT(std::count(kept.begin(), kept.end(), '\n'), 20);
}

}  // namespace
}  // namespace ballot
