// From flags and a run file to what a cluster is asked, and back to an exit code.
#include "launcher/kubernetes/launch_kubernetes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>
#include <thread>

#include "core/error.h"
#include "launcher/kubernetes/kubernetes_objects.h"
#include "tests/launcher/kubernetes/fake_kubectl.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kRunText = "# yes: 0x10\n[output]\nfolder = \"runs/First_try\"";

RunConfig run() {
  RunConfig config;
  config.model_folder = "llama";
  config.train_data.path = "/ballot/data/train.jsonl";
  config.output_folder = "runs/First_try";
  return config;
}

KubernetesFlags flags() {
  KubernetesFlags flags;
  flags.image = "ballot:0.1.0";
  flags.claim = "training";
  return flags;
}

class LaunchOnKubernetes : public testing::Test {
 protected:
  void SetUp() override { fake.write("run.toml", kRunText); }
  std::string run_file() const { return fake.folder() + "/run.toml"; }
  KubernetesJob job(const RunConfig& config, const KubernetesFlags& given, int workers = 4,
                    int min_workers = 0) const {
    return make_kubernetes_job(config, run_file(), {"train.steps=7"}, workers, min_workers, 2,
                               given);
  }
  std::string problem(const RunConfig& config, const KubernetesFlags& given, int workers = 4,
                      int min_workers = 0) const {
    try {
      job(config, given, workers, min_workers);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }
  int launch(bool attach, const KubernetesFlags& given, bool dry_run = false) const {
    return launch_on_kubernetes(run(), run_file(), {"train.steps=7"}, 4, 0, 2, dry_run, attach,
                                given);
  }
  FakeKubectl fake;
};

TEST_F(LaunchOnKubernetes, TakesWhatIsNotSaidFromTheRun) {
  RunConfig config = run();
  const KubernetesJob one = job(config, flags());
  EXPECT_EQ(one.name, "first-try");
  EXPECT_EQ(one.voters, 4);
  EXPECT_EQ(one.min_workers, 1);
  EXPECT_EQ(one.threads, 4);
  EXPECT_EQ(one.tls_name, "first-try-coordinator");
  EXPECT_EQ(one.run_text, std::string(kRunText) + "\n");
  config.members = 4;
  const KubernetesJob members = job(config, flags(), 8);
  EXPECT_EQ(members.voters, 2);
  EXPECT_EQ(members.threads, 1);
  config.output_folder = "/ballot/data/2026-11";
  EXPECT_EQ(job(config, flags()).name, "run-2026-11");
  KubernetesFlags mpi = flags();
  mpi.controller = "mpi";
  EXPECT_EQ(job(run(), mpi).min_workers, 4);
}

struct Contradiction {
  std::string what;
  std::function<void(RunConfig&, KubernetesFlags&)> make;
  std::vector<std::string> said;
};

TEST_F(LaunchOnKubernetes, ContradictionsAreRefusedWithBothSides) {
  const std::vector<Contradiction> all = {
      {"model elsewhere",
       [](auto& run, auto&) { run.model_folder = "/home/me/llama"; },
       {"model.folder = \"/home/me/llama\"", "training", "/ballot/data", "--kube-mount"}},
      {"data elsewhere",
       [](auto& run, auto&) { run.train_data.path = "../train.jsonl"; },
       {"data.train = \"../train.jsonl\""}},
      {"validation",
       [](auto& run, auto&) { run.validation_data.path = "/ballot/database/x"; },
       {"data.validation = \"/ballot/database/x\""}},
      {"output elsewhere",
       [](auto& run, auto&) { run.output_folder = "runs/../../x"; },
       {"output.folder"}},
      {"output the volume",
       [](auto& run, auto& flags) {
         run.output_folder = "runs/..";
         flags.name = "x";
       },
       {"is the volume itself"}},
      {"cuda without a GPU",
       [](auto& run, auto&) { run.device = "cuda"; },
       {"train.device = \"cuda\"", "--kube-gpus 1"}},
      {"a GPU for the CPU",
       [](auto& run, auto& flags) {
         run.device = "cpu";
         flags.gpus = 1;
       },
       {"--kube-gpus 1", "train.device = \"cpu\""}},
      {"two GPUs", [](auto&, auto& flags) { flags.gpus = 2; }, {"--kube-gpus 2", "one GPU"}},
      {"GPUs and members",
       [](auto& run, auto& flags) {
         run.members = 2;
         flags.gpus = 1;
       },
       {"vote.members = 2"}},
      {"uneven", [](auto& run, auto&) { run.members = 3; }, {"4 workers", "voters of 3"}},
      {"threads", [](auto& run, auto&) { run.threads = 9; }, {"--kube-cpus \"4\"", "9 threads"}},
      {"schedule",
       [](auto& run, auto&) { run.vote_schedule = Schedule::gathered; },
       {"vote.schedule", "--operator mpi"}},
      {"a port of loopback",
       [](auto& run, auto&) { run.prometheus = "127.0.0.1:9400"; },
       {"output.prometheus = \"127.0.0.1:9400\"", "\"0.0.0.0:9400\""}},
      {"any port",
       [](auto& run, auto&) { run.prometheus = "0.0.0.0:0"; },
       {"output.prometheus = \"0.0.0.0:0\""}},
      {"the job's own port",
       [](auto& run, auto&) { run.prometheus = "0.0.0.0:29500"; },
       {"29500 and 29501 are the job's own"}},
      {"one port for two",
       [](auto& run, auto&) {
         run.members = 2;
         run.prometheus = "0.0.0.0:9400";
       },
       {"output.prometheus", "vote.members = 2"}},
      {"keep best", [](auto& run, auto&) { run.keep_best = true; }, {"train.keep_best"}},
      {"no image", [](auto&, auto& flags) { flags.image = ""; }, {"--kube-image", "Dockerfile"}},
      {"no claim", [](auto&, auto& flags) { flags.claim = ""; }, {"--kube-claim", "ReadWriteMany"}},
      {"operator",
       [](auto&, auto& flags) { flags.controller = "pytorch"; },
       {"--operator pytorch"}},
      {"pair",
       [](auto&, auto& flags) { flags.node_selector = {"gpu"}; },
       {"--kube-node-selector gpu", "KEY=VALUE"}},
      {"twice",
       [](auto&, auto& flags) {
         flags.labels = {"a=1", "a=2"};
       },
       {"a is given twice"}},
      {"user", [](auto&, auto& flags) { flags.user = "me"; }, {"--kube-user me", "UID"}},
      {"root", [](auto&, auto& flags) { flags.user = "0"; }, {"--kube-user 0"}},
      {"grace", [](auto&, auto& flags) { flags.grace = "soon"; }, {"--kube-grace soon"}},
      {"tls name", [](auto&, auto& flags) { flags.tls_name = "x"; }, {"--kube-tls-secret"}},
      {"name", [](auto& run, auto&) { run.output_folder = "runs/___"; }, {"--name \"\""}},
  };
  EXPECT_EQ(problem(run(), flags()), "");
  for (const Contradiction& one : all) {
    RunConfig config = run();
    KubernetesFlags given = flags();
    one.make(config, given);
    const std::string text = problem(config, given);
    for (const std::string& part : one.said) EXPECT_THAT(text, HasSubstr(part)) << one.what;
  }
  EXPECT_THAT(problem(run(), flags(), 4, 5), HasSubstr("--min-workers 5: expected 1 to 4"));
}

TEST_F(LaunchOnKubernetes, ADryRunPrintsTheObjectsAndAsksNobody) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(launch(false, flags(), true), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_EQ(text, yaml_documents(kubernetes_objects(job(run(), flags()))));
  EXPECT_THAT(fake.calls(), ElementsAre());
}

TEST_F(LaunchOnKubernetes, SubmitsWhatTheDryRunShowsAndASecret) {
  EXPECT_EQ(launch(false, flags()), 0);
  KubernetesJob shown = job(run(), flags());
  const std::string submitted = fake.read("applied.1.yaml");
  const std::string mark = "BALLOT_TOKEN: ";
  const std::size_t at = submitted.find("stringData:");
  ASSERT_NE(at, std::string::npos);
  const std::size_t begin = submitted.find(mark, at) + mark.size();
  shown.token = submitted.substr(begin, submitted.find('\n', begin) - begin);
  if (shown.token.front() == '"') shown.token = shown.token.substr(1, shown.token.size() - 2);
  EXPECT_EQ(shown.token.size(), 64u);
  EXPECT_EQ(submitted, yaml_documents(kubernetes_objects(shown)));
  for (const std::string& call : fake.calls()) EXPECT_THAT(call, Not(HasSubstr(shown.token)));
  // Another job, another secret.
  EXPECT_EQ(launch(false, flags()), 0);
  EXPECT_THAT(fake.read("applied.2.yaml"), Not(HasSubstr(shown.token)));
}

TEST_F(LaunchOnKubernetes, WhatTheJobOwnsIsGivenToItOnceItIsThere) {
  fake.write("get-job.2",
             R"({"kind":"Job","metadata":{"uid":"u-1"},"spec":{"completions":4},"status":{}})");
  EXPECT_EQ(launch(false, flags()), 0);
  const std::string owned = fake.read("applied.2.yaml");
  EXPECT_THAT(owned, AllOf(HasSubstr("kind: StatefulSet"), HasSubstr("kind: Secret"),
                           HasSubstr("uid: u-1"), Not(HasSubstr("completionMode"))));
}

TEST_F(LaunchOnKubernetes, AJobOfThatNameThatRunsIsNotTouched) {
  fake.write("get-job",
             R"({"kind":"Job","spec":{"completions":4},"status":{"active":4,"ready":4}})");
  try {
    launch(false, flags());
    FAIL() << "it was submitted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("--name first-try"), HasSubstr("running")));
  }
  for (const std::string& call : fake.calls()) EXPECT_THAT(call, HasSubstr("get "));
}

TEST_F(LaunchOnKubernetes, AnEndedJobOfThatNameMakesRoom) {
  fake.write("get-job.1",
             R"({"kind":"Job","status":{"conditions":[{"type":"Failed","status":"True"}]}})");
  fake.write("get-job.2",
             R"({"kind":"Job","status":{"conditions":[{"type":"Failed","status":"True"}]}})");
  EXPECT_EQ(launch(false, flags()), 0);
  const std::vector<std::string> calls = fake.calls();
  EXPECT_THAT(calls, Contains(HasSubstr("delete job first-try")));
  EXPECT_THAT(calls, Contains(HasSubstr("apply")));
}

constexpr const char* kTwoPods =
    R"({"items":[{"metadata":{"name":"first-try-0-a","labels":{"batch.kubernetes.io/job-completion-index":"0"}},)"
    R"("status":{"phase":"Running","containerStatuses":[{"state":{"running":{}}}]}},)"
    R"({"metadata":{"name":"first-try-coordinator-0","labels":{"app.kubernetes.io/component":"coordinator"}},)"
    R"("status":{"phase":"Running"}}]})";
constexpr const char* kRunning =
    R"({"kind":"Job","metadata":{"uid":"u-1"},"spec":{"completions":4},"status":{"active":4,"ready":4}})";

// In a process of its own: it takes signals. The exit code that `ballot` would have.
class AttachedLaunch {
 public:
  explicit AttachedLaunch(const std::function<int()>& launch) : id_(::fork()) {
    if (id_ != 0) return;
    int code = 70;
    try {
      code = launch();
    } catch (const std::exception& error) {
      code = static_cast<int>(describe_failure(error).exit_code);
    }
    ::_exit(code);
  }
  ~AttachedLaunch() {
    if (!ended_) ::kill(id_, SIGKILL), ::waitpid(id_, nullptr, 0);
  }
  pid_t id() const { return id_; }
  int wait() {
    int status = 0;
    for (int i = 0; i < 600; ++i) {
      if (::waitpid(id_, &status, WNOHANG) == id_) {
        ended_ = true;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return -1;
  }

 private:
  pid_t id_;
  bool ended_ = false;
};

bool within(const std::function<bool()>& holds) {
  for (int i = 0; i < 600; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return false;
}

TEST_F(LaunchOnKubernetes, AttachedItEndsAsTheJobDoesWithTheLogsBesideIt) {
  fake.write("get-job.1", "");
  fake.write("get-job", kRunning);
  fake.write("get-job.4",
             R"({"kind":"Job","spec":{"completions":4},"status":{"conditions":[{"type":"Failed",)"
             R"("status":"True","reason":"PodFailurePolicy"}]}})");
  fake.write("get-pods", kTwoPods);
  fake.write("get-pods.3",
             R"({"items":[{"metadata":{"name":"first-try-0-a","labels":)"
             R"({"batch.kubernetes.io/job-completion-index":"0"}},"status":{"phase":"Failed",)"
             R"("containerStatuses":[{"state":{"terminated":{"exitCode":3}}}]}}]})");
  fake.write("logs", "cannot read /ballot/data/train.jsonl\n");
  fake.write("logs.end", "");
  KubernetesFlags given = flags();
  given.log_folder = fake.folder() + "/kept";
  AttachedLaunch attached([&] { return launch(true, given); });
  EXPECT_EQ(attached.wait(), 3);
  EXPECT_EQ(fake.read("kept/worker-0.log"), "cannot read /ballot/data/train.jsonl\n");
  EXPECT_EQ(fake.read("kept/coordinator.log"), "cannot read /ballot/data/train.jsonl\n");
  EXPECT_THAT(fake.calls(), Contains(HasSubstr("logs first-try-0-a --tail -1 --follow")));
}

TEST_F(LaunchOnKubernetes, AskedToStopItLetsTheWorkersLeaveAndTidiesUp) {
  fake.write("get-job.1", "");
  fake.write("get-job", kRunning);
  fake.write("get-pods", kTwoPods);
  fake.write("logs", "step 1\n");
  KubernetesFlags given = flags();
  given.log_folder = fake.folder() + "/kept";
  AttachedLaunch attached([&] { return launch(true, given); });
  ASSERT_TRUE(within([&] { return fake.has("kept/worker-0.log"); }));
  ::kill(attached.id(), SIGTERM);
  ASSERT_TRUE(within([&] { return fake.has("patch.count"); }));
  for (const std::string& call : fake.calls())
    EXPECT_THAT(call, Not(HasSubstr("delete"))) << "while workers leave";
  fake.write("get-pods", R"({"items":[]})");
  fake.write("logs.end", "");
  EXPECT_EQ(attached.wait(), static_cast<int>(ExitCode::retry));
  EXPECT_THAT(fake.calls(), Contains(HasSubstr("delete job first-try")));
}

TEST_F(LaunchOnKubernetes, ASecondSignalLeavesTheClusterToIt) {
  fake.write("get-job.1", "");
  fake.write("get-job", kRunning);
  fake.write("get-pods", kTwoPods);
  KubernetesFlags given = flags();
  given.log_folder = fake.folder() + "/kept";
  AttachedLaunch attached([&] { return launch(true, given); });
  ASSERT_TRUE(within([&] { return fake.has("kept/worker-0.log"); }));
  ::kill(attached.id(), SIGINT);
  ASSERT_TRUE(within([&] { return fake.has("patch.count"); }));
  ::kill(attached.id(), SIGINT);
  EXPECT_EQ(attached.wait(), 128 + SIGINT);
  for (const std::string& call : fake.calls()) EXPECT_THAT(call, Not(HasSubstr("delete")));
}

TEST_F(LaunchOnKubernetes, AClusterThatIsGoneForAMomentEndsNothing) {
  fake.write("get-job.1", "");
  fake.write("get-job", kRunning);
  fake.write("get-job.3.code", "1");
  fake.write("get-job.3.errors", "Unable to connect to the server: i/o timeout");
  fake.write("get-job.5",
             R"({"kind":"Job","status":{"conditions":[{"type":"Complete","status":"True"}]}})");
  KubernetesFlags given = flags();
  given.log_folder = fake.folder() + "/kept";
  AttachedLaunch attached([&] { return launch(true, given); });
  EXPECT_EQ(attached.wait(), 0);
}

TEST(KubernetesFlagsTest, AreReadFromTheCommandLine) {
  CLI::App app;
  KubernetesFlags given;
  add_kubernetes_flags(app, given);
  app.parse(
      "--operator mpi --kube-image a:1 --kube-claim c --kube-gpus 1 --kube-label a=b "
      "--kube-label c=d --kube-cpus 500m");
  EXPECT_EQ(controller_of(given), KubernetesOperator::mpi);
  EXPECT_EQ(given.image, "a:1");
  EXPECT_EQ(given.gpus, 1);
  EXPECT_THAT(given.labels, ElementsAre("a=b", "c=d"));
  EXPECT_EQ(given.memory, "8Gi");
  EXPECT_THROW(app.parse("--operator pytorch"), CLI::ParseError);
}

}  // namespace
}  // namespace ballot
