// `ballot launch` on hosts, of which two or three real sshds on loopback addresses are "machines":
// mpirun across them, TLS between them, hosts that differ; and where Slurm's programs are missing.
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/process/small_run.h"
#include "tests/process/ssh_nodes.h"
#include "tests/support/free_port.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::ContainsRegex;
using testing::HasSubstr;

using Words = std::vector<std::string>;

Words with(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::string whole(const std::filesystem::path& path) {
  std::ifstream source(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(source)), std::istreambuf_iterator<char>());
}

class HostsTest : public SmallRun {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() == 0)
      nodes_ = std::make_unique<SshNodes>(Words{"127.0.0.1", "127.0.0.2"}, test::free_port());
  }
  static void TearDownTestSuite() { nodes_.reset(); }
  void SetUp() override {
    if (!nodes_) GTEST_SKIP() << "an sshd of the test's own needs root";
    SmallRun::SetUp();
  }
  Environment environment() const { return {{"BALLOT_JOBS", file("jobs")}}; }
  Words on(const std::string& kind, const Words& more) const {
    return with({"launch", "run.toml", "--on", kind, "--hosts", "127.0.0.1,127.0.0.2", "--workers",
                 "2", "--ssh", nodes_->client()},
                more);
  }
  Ended launch_on(const std::string& kind, const Words& more) const {
    return Command(on(kind, more), file(""), environment()).wait(150s);
  }
  void write_script(const std::string& name, const std::string& text) const {
    write(name, "#!/bin/sh\n" + text);
    ASSERT_EQ(::chmod(file(name).c_str(), 0755), 0);
  }
  void shell(const std::string& command) const {
    ASSERT_EQ(std::system(("cd '" + file("") + "' && " + command).c_str()), 0) << command;
  }

  static std::unique_ptr<SshNodes> nodes_;
};
std::unique_ptr<SshNodes> HostsTest::nodes_;

// Open MPI takes 127.0.0.1 for this machine, where mpirun starts the worker itself, and 127.0.0.2
// for another: it is reached by ssh, and the worker there is a child of `orted`.
class MpirunTest : public HostsTest {
 protected:
  // Its process, as mpirun or orted starts it; 0 where there is none (yet).
  pid_t worker(int rank) const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename().string();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::error_code gone;
      if (std::filesystem::read_symlink(entry.path() / "cwd", gone).string() + "/" == file("") &&
          whole(entry.path() / "cmdline").find(std::string("\0train\0", 7)) != std::string::npos &&
          ('\0' + whole(entry.path() / "environ"))
                  .find('\0' + fmt::format("OMPI_COMM_WORLD_RANK={}", rank) + '\0') !=
              std::string::npos)
        return static_cast<pid_t>(std::stol(name));
    }
    return 0;
  }
  static std::string parent_name(pid_t id) {
    const std::string process = fmt::format("/proc/{}/", id), stat = whole(process + "stat");
    const std::size_t end = stat.rfind(')');
    if (end == std::string::npos) return "";
    const std::string name =
        whole(fmt::format("/proc/{}/comm", std::atoi(stat.c_str() + end + 4)));  // ") S PARENT"
    return name.substr(0, name.find('\n'));
  }
  void expect_gone() const {
    EXPECT_TRUE(within(30s, [&] { return worker(0) == 0 && worker(1) == 0; }));
  }
  // All steps were made, each once. Whoever writes the record may have been ended between a step,
  // which the journal has, and its line: one line at most.
  void expect_all_steps(const std::string& output, std::int64_t steps) const {
    const auto lines = metrics(output, "step");
    ASSERT_GE(lines.size(), static_cast<std::size_t>(steps - 1));
    std::int64_t before = 0;
    for (const nlohmann::json& line : lines) {
      const auto step = line["step"].get<std::int64_t>();
      EXPECT_GT(step, before);
      before = step;
    }
    EXPECT_EQ(before, steps);
    EXPECT_EQ(lines.back()["tokens_total"], steps * 2 * 2 * 32);
    const auto runs = metrics(output, "run"), ends = metrics(output, "end");
    ASSERT_EQ(runs.size(), 2u);
    EXPECT_GT(runs[1]["first_step"].get<std::int64_t>(), 10);  // no step anew
    ASSERT_EQ(ends.size(), 1u);
    EXPECT_EQ(ends[0]["replicas_identical"], true);
  }
  // A worker that is killed in the middle of a job that may be started again.
  void kill_and_go_on(int rank) const {
    constexpr int kSteps = 600;
    Command job(on("mpirun", {"--max-restarts", "1", "--set", fmt::format("train.steps={}", kSteps),
                              "--set", "train.checkpoint_every=100"}),
                file(""), environment());
    ASSERT_TRUE(within(90s, [&] { return last_step("out") > 10; })) << job.output();
    const pid_t doomed = worker(rank);
    ASSERT_GT(doomed, 0) << job.output();
    ASSERT_EQ(::kill(doomed, SIGKILL), 0);
    const Ended ended = job.wait(150s);
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr("starting it again from its newest state"));
    EXPECT_THAT(ended.output, HasSubstr("(1 of 1 restarts)"));
    expect_all_steps("out", kSteps);
    expect_gone();
  }
};

TEST_F(MpirunTest, AJobOnTwoHostsHasTheBitsOfALocalOne) {
  // Worker 1 of a run that goes well has nothing to say.
  write_script("said", fmt::format("[ \"$1\" != train ] || echo started from $SSH_CONNECTION\n"
                                   "exec '{}' \"$@\"\n",
                                   BALLOT_BINARY));
  const Ended ended = launch_on("mpirun", {"--program", file("said")});
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("network: all hosts are one machine: loopback"));
  EXPECT_THAT(ended.output, HasSubstr("worker 0 | started from"));
  EXPECT_THAT(ended.output,
              ContainsRegex("worker 1 \\| started from [^ ]+ [0-9]+ 127\\.0\\.0\\.2 "));
  EXPECT_THAT(read("out/logs/worker-0.log"), HasSubstr("started from"));
  EXPECT_THAT(read("out/logs/worker-1.log"), HasSubstr("127.0.0.2"));
  train(2, "local");
  expect_same_bits("out/checkpoints/step-00000008", "local/checkpoints/step-00000008");
}

TEST_F(MpirunTest, AskedToEndItLeavesWithACheckpoint) {
  Command job(
      on("mpirun", {"--set", "train.steps=100000", "--set", "train.checkpoint_every=100000"}),
      file(""), environment());
  ASSERT_TRUE(within(90s, [&] { return last_step("out") > 3; })) << job.output();
  EXPECT_EQ(parent_name(worker(0)), "mpirun");
  EXPECT_EQ(parent_name(worker(1)), "orted");
  job.send(SIGTERM);
  const Ended ended = job.wait(150s);
  EXPECT_EQ(ended.exit_code, 4) << ended.output;
  // Of its last step, which no other rule makes.
  std::error_code absent;
  EXPECT_EQ(std::filesystem::read_symlink(file("out/checkpoints/latest"), absent).string(),
            fmt::format("step-{:08}", last_step("out")))
      << ended.output;
  expect_gone();
}

TEST_F(MpirunTest, AKilledWorkerBesideTheLauncherStartsTheJobAgain) {
  kill_and_go_on(0);
}

TEST_F(MpirunTest, AKilledWorkerOfAnotherHostStartsTheJobAgain) {
  kill_and_go_on(1);
}

TEST_F(MpirunTest, ALauncherThatIsKilledLeavesNobodyBehind) {
  Command job(
      on("mpirun", {"--set", "train.steps=100000", "--set", "train.checkpoint_every=100000"}),
      file(""), environment());
  ASSERT_TRUE(within(90s, [&] { return last_step("out") > 3; })) << job.output();
  ASSERT_EQ(::kill(job.id(), SIGKILL), 0);
  expect_gone();
  EXPECT_THAT(ballot({"jobs"}, environment()).output, HasSubstr("lost: its launcher was killed"));
}

// With all that ran there. mpirun's exit code is one of several then, by what it notices first; the
// host stays away, so that starting the job again does not help.
TEST_F(MpirunTest, AHostThatIsLostIsAReasonToTryAgain) {
  SshNodes nodes({"127.0.0.1", "127.0.0.15"}, test::free_port());
  Command job({"launch", "run.toml", "--on", "mpirun", "--hosts", "127.0.0.1,127.0.0.15",
               "--workers", "2", "--ssh", nodes.client(), "--max-restarts", "1", "--set",
               "train.steps=100000", "--set", "train.checkpoint_every=10"},
              file(""), environment());
  const auto has_checkpoint = [&] {
    return std::filesystem::exists(file("out/checkpoints/latest"));
  };
  ASSERT_TRUE(within(90s, has_checkpoint)) << job.output();
  nodes.kill(1);
  const Ended ended = job.wait(150s);
  EXPECT_EQ(ended.exit_code, 4) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("(1 of 1 restarts)"));
  EXPECT_THAT(ended.output, HasSubstr("go on from it with --resume"));
  expect_gone();
}

class TlsTest : public HostsTest {
 protected:
  void SetUp() override {
    HostsTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // One certificate for all hosts, as all are given the same path.
    shell(std::string("'") + BALLOT_CERTIFICATES +
          "' certificates hosts,127.0.0.1,127.0.0.2,127.0.0.7,127.0.0.8 > certificates.log");
  }
  static Words tls() {
    return {"--tls-ca",  "certificates/ca.pem",   "--tls-certificate", "certificates/hosts.pem",
            "--tls-key", "certificates/hosts.key"};
  }
};

TEST_F(TlsTest, AFixedJobOverItHasTheBitsOfALocalOne) {
  const Ended ended = launch_on("ssh", tls());
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  train(2, "local");
  expect_same_bits("out/checkpoints/step-00000008", "local/checkpoints/step-00000008");
}

// A host on which the same paths hold what another authority made.
TEST_F(TlsTest, AHostWithACertificateOfAnotherAuthorityEndsTheJob) {
  if (std::system("unshare -m true") != 0) GTEST_SKIP() << "mounting is not permitted here";
  shell(std::string("'") + BALLOT_CERTIFICATES +
        "' foreign hosts,127.0.0.1,127.0.0.2,127.0.0.7,127.0.0.8 > certificates.log");
  const SshNodes nodes(
      {"127.0.0.7", "127.0.0.8"}, test::free_port(),
      {{},
       {"unshare", "-m", "sh", "-c",
        fmt::format("mount --bind '{}' '{}' && exec \"$@\"", file("foreign"), file("certificates")),
        "foreign"}});
  Command job(with({"launch", "run.toml", "--on", "ssh", "--hosts", "127.0.0.7,127.0.0.8",
                    "--workers", "2", "--ssh", nodes.client()},
                   tls()),
              file(""), environment());
  const Ended ended = job.wait(150s);
  EXPECT_EQ(ended.exit_code, 4) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("worker 1 | ballot: rank 1 and rank 0 at 127.0.0.1:"));
  EXPECT_THAT(ended.output, HasSubstr("do not trust each other's TLS"));
  EXPECT_THAT(ended.output, HasSubstr("certificate verify failed"));
  EXPECT_FALSE(std::filesystem::exists(file("out/checkpoints/latest")));
}

class PreflightTest : public HostsTest {
 protected:
  static constexpr const char* kThree = "127.0.0.11,127.0.0.12,127.0.0.13";
  static Ended look(const SshNodes& nodes, const std::string& folder, const Environment& variables,
                    const Words& more = {}) {
    return Command(with({"launch", "run.toml", "--on", "ssh", "--hosts", kThree, "--workers", "3",
                         "--ssh", nodes.client()},
                        more),
                   folder, variables)
        .wait(100s);
  }
  // Lines of what is to be mended.
  static std::vector<std::string> refusals(const std::string& output) {
    const std::string begin = "not started: ";
    std::vector<std::string> found;
    std::istringstream text(output);
    for (std::string line; std::getline(text, line);)
      if (line.starts_with(begin)) found.push_back(line.substr(begin.size()));
    return found;
  }
};

TEST_F(PreflightTest, AHostWhoseModelDiffersByOneByteIsNamed) {
  if (std::system("unshare -m true") != 0) GTEST_SKIP() << "mounting is not permitted here";
  std::filesystem::copy(file("model"), file("other"));
  damage("other/model.safetensors");
  const SshNodes nodes(
      {"127.0.0.11", "127.0.0.12", "127.0.0.13"}, test::free_port(),
      {{},
       {},
       {"unshare", "-m", "sh", "-c",
        fmt::format("mount --bind '{}' '{}' && exec \"$@\"", file("other"), file("model")),
        "other-model"}});
  const Ended refused = look(nodes, file(""), environment());
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  const std::vector<std::string> found = refusals(refused.output);
  ASSERT_EQ(found.size(), 1u) << refused.output;
  EXPECT_THAT(found[0],
              HasSubstr("127.0.0.13: model.folder model has other contents there (digest "));
  EXPECT_FALSE(std::filesystem::exists(file("out/metrics.jsonl")));
}

TEST_F(PreflightTest, AHostThatRunsAnotherBuildIsNamed) {
  write_script("other-build", fmt::format(R"(if [ "$1" = probe ]; then
  set -- $SSH_CONNECTION -- "$@"
  there=$3; shift 5
  if [ "$there" = 127.0.0.12 ]; then
    '{0}' "$@" | sed 's/"version":"[^"]*"/"version":"0.0.9"/'
    exit
  fi
fi
exec '{0}' "$@"
)",
                                          BALLOT_BINARY));
  const SshNodes nodes({"127.0.0.11", "127.0.0.12", "127.0.0.13"}, test::free_port());
  const Ended refused = look(nodes, file(""), environment(), {"--program", file("other-build")});
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  const std::vector<std::string> found = refusals(refused.output);
  ASSERT_EQ(found.size(), 1u) << refused.output;
  EXPECT_THAT(found[0], HasSubstr("127.0.0.12: runs ballot 0.0.9, this is "));
  EXPECT_THAT(found[0], HasSubstr("--program"));
  EXPECT_FALSE(std::filesystem::exists(file("out/metrics.jsonl")));
}

// Programs are found in a PATH that has nothing but what the test puts there.
class NoSlurmTest : public SmallRun {
 protected:
  void SetUp() override {
    SmallRun::SetUp();
    std::filesystem::create_directory(file("programs"));
    path_ = std::getenv("PATH");
    ::setenv("PATH", file("programs").c_str(), 1);
  }
  void TearDown() override {
    if (!path_.empty()) ::setenv("PATH", path_.c_str(), 1);
  }
  Ended run(const Words& words, const Environment& more = {}) const {
    Environment all{{"BALLOT_JOBS", file("jobs")}};
    all.insert(all.end(), more.begin(), more.end());
    return ballot(words, all);
  }
  static void expect_named(const Ended& ended, const std::string& program) {
    EXPECT_EQ(ended.exit_code, 2) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(program + " is not in PATH: install Slurm's client "
                                                  "programs (Debian: slurm-client)"));
  }

 private:
  std::string path_;
};

TEST_F(NoSlurmTest, EachMissingProgramIsNamedWithItsPackage) {
  const Words submit = {"launch", "run.toml", "--on", "slurm", "--workers", "2", "--elastic"};
  expect_named(run(submit), "sbatch");
  EXPECT_EQ(run(with(submit, {"--dry-run"})).exit_code, 0);  // asks nobody

  // What could not be submitted is in nobody's way.
  write("programs/sbatch", "#!/bin/sh\necho 4711\n");
  ASSERT_EQ(::chmod(file("programs/sbatch").c_str(), 0755), 0);
  const Ended submitted = run(submit);
  EXPECT_EQ(submitted.exit_code, 0) << submitted.output;
  EXPECT_THAT(submitted.output, HasSubstr("Slurm job 4711 is submitted"));

  const Ended listed = run({"jobs"});
  EXPECT_EQ(listed.exit_code, 0) << listed.output;
  EXPECT_THAT(listed.output, HasSubstr("squeue is not in PATH"));
  expect_named(run({"stop", "out"}), "squeue");

  expect_named(run({"launch", "run.toml", "--on", "slurm", "--inside", "--workers", "2",
                    "--elastic", "--set", "output.folder=inside"},
                   {{"SLURM_JOB_ID", "4712"},
                    {"SLURM_JOB_NODELIST", "node[1-2]"},
                    {"SLURM_TASKS_PER_NODE", "1(x2)"}}),
               "srun");
}

}  // namespace
}  // namespace ballot
