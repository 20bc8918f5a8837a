// `ballot launch --on ssh` over real sshds on loopback addresses: three hosts and one that is not
// there, one that is lost, a launcher that dies.
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/process/small_run.h"
#include "tests/process/ssh_nodes.h"
#include "tests/support/free_port.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

class SshTest : public SmallRun {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() == 0)
      nodes_ = std::make_unique<SshNodes>(
          std::vector<std::string>{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"},
          test::free_port());
  }
  static void TearDownTestSuite() { nodes_.reset(); }
  void SetUp() override {
    if (!nodes_) GTEST_SKIP() << "an sshd of the test's own needs root";
    SmallRun::SetUp();
    write("hosts", "# three machines\n127.0.0.1\n127.0.0.2 slots=1\n127.0.0.3:1\n");
  }
  Environment environment() const { return {{"BALLOT_JOBS", file("jobs")}}; }
  std::vector<std::string> on_ssh(const std::vector<std::string>& more,
                                  const std::string& hosts = "hosts") const {
    std::vector<std::string> words = {"launch",  "run.toml", "--on",  "ssh",
                                      "--hosts", hosts,      "--ssh", nodes_->client()};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Ended launch_on_ssh(const std::vector<std::string>& more,
                      const std::string& hosts = "hosts") const {
    return Command(on_ssh(more, hosts), file(""), environment()).wait(100s);
  }
  // Its workers left in order: with a checkpoint of their last step, which no other rule makes.
  void expect_drained(const std::string& output) const {
    std::error_code absent;
    EXPECT_EQ(std::filesystem::read_symlink(file(output + "/checkpoints/latest"), absent).string(),
              fmt::format("step-{:08}", last_step(output)));
  }
  // Processes of this run's workers, wherever started.
  std::vector<pid_t> workers() const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename().string();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::error_code gone;
      if (std::filesystem::read_symlink(entry.path() / "cwd", gone).string() + "/" != file(""))
        continue;
      std::ifstream source(entry.path() / "cmdline", std::ios::binary);
      const std::string all((std::istreambuf_iterator<char>(source)),
                            std::istreambuf_iterator<char>());
      if (all.find(std::string("\0train\0", 7)) != std::string::npos)
        found.push_back(static_cast<pid_t>(std::stol(name)));
    }
    return found;
  }

  static std::string agent_words() { return "exec '" + std::string(BALLOT_BINARY) + "' agent"; }

  static std::unique_ptr<SshNodes> nodes_;
};
std::unique_ptr<SshNodes> SshTest::nodes_;

TEST_F(SshTest, AnElasticAndAFixedJobHaveTheBitsOfLocalOnes) {
  const Ended elastic = launch_on_ssh({"--workers", "3", "--elastic"});
  ASSERT_EQ(elastic.exit_code, 0) << elastic.output;
  EXPECT_THAT(elastic.output, HasSubstr("worker 2 | "));
  EXPECT_THAT(elastic.output, HasSubstr("network: all hosts are one machine: loopback"));
  const Ended fixed = launch_on_ssh({"--workers", "3", "--set", "output.folder=fixed"});
  ASSERT_EQ(fixed.exit_code, 0) << fixed.output;
  train(3, "local");
  expect_same_bits("fixed/checkpoints/step-00000008", "local/checkpoints/step-00000008");
  EXPECT_EQ(read("out/checkpoints/step-00000008/model.safetensors"),
            read("local/checkpoints/step-00000008/model.safetensors"));
  for (const char* log :
       {"out/logs/worker-2.log", "out/logs/coordinator.log", "fixed/logs/worker-0.log"})
    EXPECT_GT(read(log).size(), 0u) << log;
}

// A file system of its own, in memory.
class Disk {
 public:
  Disk(std::string folder, const std::string& options) : folder_(std::move(folder)) {
    std::filesystem::create_directory(folder_);
    mounted_ =
        std::system(("mount -t tmpfs -o " + options + " ballot-test '" + folder_ + "'").c_str()) ==
        0;
  }
  ~Disk() {
    if (mounted_ && std::system(("umount '" + folder_ + "'").c_str()) != 0)
      std::fprintf(stderr, "cannot unmount %s\n", folder_.c_str());
  }
  bool mounted() const { return mounted_; }

 private:
  const std::string folder_;
  bool mounted_;
};

TEST_F(SshTest, ADiskThatIsTooSmallOrCannotBeWrittenIsRefusedOrNamed) {
  const Disk small(file("small"), "size=1500k"), closed(file("closed"), "ro");
  if (!small.mounted() || !closed.mounted()) GTEST_SKIP() << "mounting is not permitted here";
  const Ended far = launch_on_ssh({"--workers", "3", "--set", "output.folder=small/run"});
  EXPECT_EQ(far.exit_code, 2) << far.output;
  EXPECT_THAT(far.output, HasSubstr("are free where output.folder small/run is"));
  const Ended read_only = launch_on_ssh({"--workers", "3", "--set", "output.folder=closed/run"});
  EXPECT_EQ(read_only.exit_code, 2) << read_only.output;
  EXPECT_THAT(read_only.output, HasSubstr("Read-only file system"));

  // On this machine nobody looks before: it is found out when it happens, and the checkpoint that
  // could not be written is named.
  const Ended full = ballot(launch(2, "small/run"), environment());
  EXPECT_EQ(full.exit_code, 3) << full.output;
  EXPECT_THAT(full.output, HasSubstr("No space left on device"));
  EXPECT_THAT(full.output, HasSubstr("small/run/"));
  const Ended local = ballot(launch(2, "closed/run"), environment());
  EXPECT_EQ(local.exit_code, 3) << local.output;
  EXPECT_THAT(local.output, HasSubstr("closed/run"));
}

// A host whose run folder has the same name and is on a disk of its own.
TEST_F(SshTest, AHostWithAFolderOfItsOwnIsRefused) {
  std::filesystem::create_directory(file("apart"));
  if (std::system("unshare -m true") != 0) GTEST_SKIP() << "mounting is not permitted here";
  const SshNodes nodes(
      {"127.0.0.5", "127.0.0.6"}, test::free_port(),
      {{},
       {"unshare", "-m", "sh", "-c",
        "mount -t tmpfs ballot-test '" + file("apart") + "' && exec \"$@\"", "own-disk"}});
  const Ended refused =
      Command({"launch", "run.toml", "--on", "ssh", "--hosts", "127.0.0.5,127.0.0.6", "--workers",
               "2", "--ssh", nodes.client(), "--set", "output.folder=apart/run"},
              file(""), environment())
          .wait(60s);
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_THAT(refused.output,
              HasSubstr("127.0.0.6: output.folder apart/run is another folder there: a file that "
                        "this launcher wrote in " +
                        file("apart")));
  EXPECT_THAT(refused.output, HasSubstr("1 thing to mend"));
  EXPECT_TRUE(std::filesystem::is_empty(file("apart")));
}

TEST_F(SshTest, ADryRunShowsEveryCommandAndNoSecret) {
  const auto shown = [&](std::vector<std::string> more) {
    more.push_back("--dry-run");
    Environment secret = environment();
    secret.push_back({"BALLOT_TOKEN", "the-secret-of-this-job"});
    const Ended ended = Command(on_ssh(more), file(""), secret).wait(30s);
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_THAT(ended.output, Not(HasSubstr("the-secret")));
    return ended.output;
  };
  const std::string fixed = shown({"--workers", "3", "--insecure"});
  EXPECT_THAT(fixed, HasSubstr("# 127.0.0.2: 1 of 1 slots"));
  EXPECT_THAT(fixed, HasSubstr("127.0.0.3 'exec '"));
  EXPECT_THAT(fixed,
              HasSubstr("RANK=2 WORLD_SIZE=3 LOCAL_WORLD_SIZE=1 MASTER_ADDR=127.0.0.1-ADDRESS"));
  EXPECT_THAT(fixed, HasSubstr(" train run.toml --transport grpc --insecure\n"));
  const std::string elastic = shown({"--workers", "2", "--elastic"});
  EXPECT_THAT(elastic,
              HasSubstr(" coordinator out --listen 127.0.0.1-ADDRESS:0 --start-workers 2"));
  EXPECT_THAT(elastic, HasSubstr(" --worker 1 --listen 127.0.0.2-ADDRESS:0"));
  const std::string gpus =
      shown({"--workers", "2", "--transport", "nccl", "--insecure", "--set", "train.device=cuda"});
  EXPECT_THAT(gpus, HasSubstr(" --transport nccl "));
  EXPECT_THAT(gpus, HasSubstr("NCCL_SOCKET_IFNAME==127.0.0.2-INTERFACE"));
  EXPECT_FALSE(std::filesystem::exists(file("out")));

  const Ended mpi =
      Command({"launch", "run.toml", "--on", "mpirun", "--hosts", "hosts", "--workers", "3",
               "--transport", "nccl", "--dry-run", "--set", "train.device=cuda"},
              file(""), environment())
          .wait(30s);
  EXPECT_EQ(mpi.exit_code, 0) << mpi.output;
  EXPECT_THAT(mpi.output, HasSubstr("--host 127.0.0.1:1,127.0.0.2:1,127.0.0.3:1"));
  EXPECT_THAT(mpi.output, HasSubstr("btl_tcp_if_include NETWORK"));
  EXPECT_THAT(mpi.output, HasSubstr("-x NCCL_SOCKET_IFNAME==INTERFACE"));
  EXPECT_THAT(mpi.output, HasSubstr(" train run.toml --set train.device=cuda --transport nccl\n"));
  EXPECT_FALSE(std::filesystem::exists(file("out")));
}

TEST_F(SshTest, AHostThatIsNotThereGivesTheTableAndNothingStarts) {
  write("more", "127.0.0.1\n127.0.0.2\n127.0.0.9\n");
  const Ended refused = launch_on_ssh({"--workers", "3"}, "more");
  EXPECT_EQ(refused.exit_code, 4) << refused.output;  // it may be there later
  EXPECT_THAT(refused.output, HasSubstr("127.0.0.9     1 ssh: connect to host 127.0.0.9"));
  EXPECT_THAT(refused.output, HasSubstr("127.0.0.1     1 -"));
  EXPECT_THAT(refused.output, HasSubstr("take the host out of --hosts"));
  EXPECT_FALSE(std::filesystem::exists(file("out/metrics.jsonl")));
}

TEST_F(SshTest, WhatDoesNotFitIsRefusedByName) {
  const auto refused = [&](const std::vector<std::string>& flags, const std::string& hosts,
                           const char* text, int code = 2, const Environment& more = {}) {
    Environment all = environment();
    all.insert(all.end(), more.begin(), more.end());
    const Ended ended = Command(on_ssh(flags, hosts), file(""), all).wait(100s);
    EXPECT_EQ(ended.exit_code, code) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(text));
  };
  refused({"--workers", "4"}, "hosts", "4 workers do not fit onto 3 hosts with 3 slots");
  write("bad", "127.0.0.1\n127.0.0.2 slots=many\n");
  refused({"--workers", "2"}, "bad", "bad:2: \"127.0.0.2 slots=many\"");
  refused({"--workers", "2"}, "no/such/file", "--hosts no/such/file: there is no such file");
  refused({"--workers", "2"}, "-oProxyCommand=x", "is no host");
  refused({"--workers", "3", "--interface", "wlan7"}, "hosts",
          "--interface wlan7: 127.0.0.1 has no such interface");
  refused({"--workers", "3", "--program", "/no/such/ballot"}, "hosts",
          "/no/such/ballot: No such file or directory (--program says where");
  refused({"--workers", "3", "--transport", "mpi"}, "hosts", "for MPI launch --on mpirun");
  refused({"--workers", "3", "--transport", "nccl", "--set", "train.device=cpu"}, "hosts",
          "--transport nccl: train.device = \"cpu\" is no GPU");
  refused({"--workers", "3", "--transport", "nccl", "--insecure"}, "hosts",
          "127.0.0.2: 0 GPUs for 1 workers");
  refused({"--workers", "3", "--transport", "nccl", "--interface", "lo"}, "hosts",
          "--interface lo and NCCL_SOCKET_IFNAME = eth7: expected one of them", 2,
          {{"NCCL_SOCKET_IFNAME", "eth7"}});
  refused({"--workers", "3", "--transport", "nccl", "--elastic"}, "hosts",
          "--transport nccl: an elastic run votes over gRPC");
  const Ended absent = Command({"launch", "run.toml", "--on", "ssh", "--hosts", "a", "--workers",
                                "1", "--ssh", "no-such-ssh -p 1"},
                               file(""), environment())
                           .wait(30s);
  EXPECT_EQ(absent.exit_code, 2);
  EXPECT_THAT(absent.output, HasSubstr("no-such-ssh is not in PATH: install"));
}

TEST_F(SshTest, AFolderThatCannotBeWrittenIsSeenBeforeAnythingStarts) {
  std::filesystem::create_directory(file("closed"));
  std::ofstream(file("closed/file")) << "in the way";
  const Ended refused =
      launch_on_ssh({"--workers", "3", "--set", "output.folder=/proc/ballot-run"});
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("output.folder /proc/ballot-run cannot be written there"));
}

// It goes there after 4 s, in which the others must not end the run.
TEST_F(SshTest, ALostHostsWorkerGoesToTheOneThatStandsBy) {
  write("four", "127.0.0.1\n127.0.0.2\n127.0.0.3\n127.0.0.4\n");
  Command job(on_ssh({"--workers", "3", "--elastic", "--max-restarts", "3", "--set",
                      "train.steps=2400", "--set", "train.checkpoint_every=300"},
                     "four"),
              file(""), environment());
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 10; })) << job.output();
  nodes_->kill(1);  // with what runs there
  const Ended ended = job.wait(150s);
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("worker 1 moves from 127.0.0.2 to 127.0.0.4"));
  EXPECT_EQ(last_step("out"), 2400);
  nodes_.reset();
  SetUpTestSuite();
}

TEST_F(SshTest, DetachedItIsFollowedListedAndStopped) {
  const Ended started = launch_on_ssh(
      {"--workers", "2", "--detach", "--name", "mine", "--set", "train.steps=100000", "--set",
       "train.checkpoint_every=100000", "--set", "output.folder=runs/first"});
  ASSERT_EQ(started.exit_code, 0) << started.output;
  EXPECT_THAT(started.output, HasSubstr("ballot stop mine"));
  ASSERT_TRUE(within(60s, [&] { return last_step("runs/first") > 3; }));
  EXPECT_THAT(ballot({"jobs"}, environment()).output, HasSubstr("running (process"));
  EXPECT_THAT(ballot({"logs", "mine"}, environment()).output, HasSubstr("worker 0 | "));
  const std::string one = ballot({"logs", "mine", "--worker", "0"}, environment()).output;
  EXPECT_THAT(one, HasSubstr("info"));
  EXPECT_THAT(one, Not(HasSubstr("worker 0 | ")));
  EXPECT_THAT(ballot({"logs", "mine", "--worker", "7"}, environment()).output,
              HasSubstr("has no worker-7.log"));
  const Ended other = launch_on_ssh(
      {"--workers", "1", "--name", "mine", "--detach", "--set", "output.folder=runs/second"});
  EXPECT_EQ(other.exit_code, 2) << other.output;
  EXPECT_THAT(other.output, HasSubstr("another job of this name"));
  const Ended stopped = ballot({"stop", "mine"}, environment());
  EXPECT_EQ(stopped.exit_code, 0) << stopped.output;
  EXPECT_THAT(stopped.output, HasSubstr("ended with 4"));
  expect_drained("runs/first");
  EXPECT_TRUE(within(10s, [&] { return workers().empty(); }));
  EXPECT_THAT(ballot({"logs", "none"}, environment()).output, HasSubstr("expected one of mine"));
}

TEST_F(SshTest, ALauncherThatIsKilledLeavesNobodyBehind) {
  Command job(on_ssh({"--workers", "3", "--set", "train.steps=100000", "--set",
                      "train.checkpoint_every=100000"}),
              file(""), environment());
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 3; })) << job.output();
  EXPECT_EQ(workers().size(), 3u);
  ::kill(job.id(), SIGKILL);
  EXPECT_TRUE(within(30s, [&] { return workers().empty(); }));
  expect_drained("out");
  EXPECT_THAT(ballot({"jobs"}, environment()).output, HasSubstr("lost: its launcher was killed"));
}

TEST_F(SshTest, AConnectionThatBreaksWhileItsWorkerGoesOnIsMended) {
  Command job(on_ssh({"--workers", "3", "--elastic", "--max-restarts", "3", "--set",
                      "train.steps=1200", "--set", "train.checkpoint_every=200"}),
              file(""), environment());
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 10; })) << job.output();
  // The ssh client alone: agent and worker learn of it by the end of their input.
  const pid_t client = job.child("127.0.0.2", agent_words());
  ASSERT_GT(client, 0);
  ::kill(client, SIGKILL);
  const Ended ended = job.wait(150s);
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("worker 1: the connection to its host was lost"));
  EXPECT_EQ(last_step("out"), 1200);
}

TEST_F(SshTest, AStopDuringThePreflightStartsNothing) {
  // A host that takes connections and says nothing.
  const int silent = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(silent, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(silent, 8), 0);
  ::getsockname(silent, reinterpret_cast<sockaddr*>(&address), &size);
  Command job({"launch", "run.toml", "--on", "ssh", "--hosts", "127.0.0.1", "--workers", "1",
               "--ssh", fmt::format("ssh -F none -p {}", ntohs(address.sin_port))},
              file(""), environment());
  ASSERT_TRUE(within(20s, [&] { return job.child("127.0.0.1", agent_words()) > 0; }));
  job.send(SIGTERM);
  const Ended ended = job.wait(20s);
  EXPECT_EQ(ended.exit_code, 4) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("asked to end by signal 15 while the hosts were looked at"));
  EXPECT_FALSE(std::filesystem::exists(file("out/metrics.jsonl")));
  for (const auto& left : std::filesystem::directory_iterator(file("")))  // the witness is gone
    EXPECT_THAT(left.path().filename().string(), Not(HasSubstr("probe")));
  ::close(silent);
}

TEST_F(SshTest, TwoJobsDoNotShareAFolder) {
  Command job(on_ssh({"--workers", "2", "--elastic", "--set", "train.steps=100000"}), file(""),
              environment());
  ASSERT_TRUE(within(60s, [&] { return last_step("out") > 3; })) << job.output();
  const Ended second =
      launch_on_ssh({"--workers", "2", "--elastic", "--set", "train.steps=100000"});
  EXPECT_EQ(second.exit_code, 2) << second.output;
  EXPECT_THAT(second.output, HasSubstr("job out there is running (process"));
  job.send(SIGTERM);
  EXPECT_EQ(job.wait(60s).exit_code, 4);
}

}  // namespace
}  // namespace ballot
