// `ballot launch --on kubernetes`, `jobs`, `logs` and `stop` as a user types them, with a kubectl
// of the test's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/launcher/kubernetes/fake_kubectl.h"
#include "tests/process/command.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kRunning =
    R"({"kind":"Job","metadata":{"uid":"u-1"},"spec":{"completions":4},"status":{"active":4,"ready":3}})";

class KubernetesCommands : public testing::Test {
 protected:
  void SetUp() override {
    fake.write("run.toml",
               "[model]\nfolder = \"llama\"\n[data]\ntrain = \"train.jsonl\"\n"
               "[output]\nfolder = \"runs/first\"\n");
  }
  Ended ballot(const std::vector<std::string>& words) const {
    return run_command(words, fake.folder(), {{"BALLOT_JOBS", fake.folder() + "/jobs"}});
  }
  // None of the run's files is here.
  Ended launch(std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {"launch",       "run.toml", "--on",           "kubernetes",
                                      "--workers",    "4",        "--kube-image",   "ballot",
                                      "--kube-claim", "training", "--kube-context", "here"};
    words.insert(words.end(), more.begin(), more.end());
    return ballot(words);
  }
  FakeKubectl fake;
};

TEST_F(KubernetesCommands, AJobIsSubmittedListedReadAndStopped) {
  fake.write("get-job.1", "");
  fake.write("get-job", kRunning);
  const Ended launched = launch();
  ASSERT_EQ(launched.exit_code, 0) << launched.output;
  EXPECT_THAT(fake.read("applied.1.yaml"), HasSubstr("completionMode: Indexed"));

  const Ended jobs = ballot({"jobs"});
  EXPECT_EQ(jobs.exit_code, 0) << jobs.output;
  EXPECT_THAT(jobs.output, AllOf(HasSubstr("first"), HasSubstr("kubernetes"),
                                 HasSubstr("running: 3 of 4 workers run")));

  fake.write("logs", "step 1\nstep 2\nstep 3\n");
  const Ended logs = ballot({"logs", "first", "--worker", "2", "--lines", "2"});
  EXPECT_EQ(logs.exit_code, 0) << logs.output;
  EXPECT_THAT(logs.output, AllOf(HasSubstr("step 2\nstep 3\n"), Not(HasSubstr("step 1"))));
  const Ended all = ballot({"logs", "first"});
  EXPECT_THAT(all.output, AllOf(HasSubstr("== coordinator"), HasSubstr("== worker 3\nstep 1")));
  EXPECT_THAT(ballot({"logs", "first", "--worker", "4"}).output, HasSubstr("expected 0 to 3"));
  EXPECT_EQ(ballot({"logs", "first", "--follow"}).exit_code, 2);

  fake.write("get-pods", R"({"items":[]})");
  const Ended stopped = ballot({"stop", "first"});
  EXPECT_EQ(stopped.exit_code, 0) << stopped.output;
  const std::vector<std::string> calls = fake.calls();
  EXPECT_THAT(calls, Contains(AllOf(HasSubstr("--context here"), HasSubstr("patch job first"))));
  EXPECT_THAT(calls, Contains(HasSubstr("delete job first")));
  EXPECT_THAT(ballot({"jobs"}).output, HasSubstr("ended with 4"));
  EXPECT_THAT(ballot({"stop", "first"}).output, HasSubstr("nothing to stop"));
}

TEST_F(KubernetesCommands, StoppedAtOnceNobodyIsWaitedFor) {
  fake.write("get-job.1", "");
  fake.write("get-job", kRunning);
  ASSERT_EQ(launch().exit_code, 0);
  EXPECT_EQ(ballot({"stop", "first", "--now"}).exit_code, 0);
  EXPECT_THAT(fake.calls(),
              AllOf(Contains(AllOf(HasSubstr("delete job first"), HasSubstr("--wait=false"))),
                    Not(Contains(HasSubstr("patch")))));
}

TEST_F(KubernetesCommands, AJobThatTheClusterHasForgottenIsLost) {
  ASSERT_EQ(launch().exit_code, 0);
  EXPECT_THAT(ballot({"jobs"}).output, HasSubstr("the cluster no longer has job first"));
}

TEST_F(KubernetesCommands, FlagsOfOtherKindsAreRefused) {
  const Ended resumed = launch({"--resume"});
  EXPECT_EQ(resumed.exit_code, 2);
  EXPECT_THAT(resumed.output, HasSubstr("--resume"));
  const Ended transport = launch({"--transport", "grpc"});
  EXPECT_EQ(transport.exit_code, 2);
  const Ended here = ballot({"launch", "run.toml", "--workers", "4", "--kube-gpus", "1"});
  EXPECT_EQ(here.exit_code, 2);
  EXPECT_THAT(here.output, HasSubstr("is for --on kubernetes"));
  EXPECT_THAT(fake.calls(), testing::IsEmpty());
}

}  // namespace
}  // namespace ballot
