// What is asked of kubectl, and what becomes of its answers, its refusals and its silence.
#include "launcher/kubernetes/kubectl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "core/error.h"
#include "tests/launcher/kubernetes/fake_kubectl.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kRunning =
    R"({"kind":"Job","metadata":{"uid":"u-1"},"spec":{"completions":2},"status":{"active":2,"ready":2}})";
constexpr const char* kSuspended =
    R"({"kind":"Job","spec":{"completions":2},"status":{"conditions":[{"type":"Suspended","status":"True"}]}})";
constexpr const char* kOnePod =
    R"({"items":[{"metadata":{"name":"first-0-abcde","labels":{"batch.kubernetes.io/job-completion-index":"0"}},)"
    R"("status":{"phase":"Running"}}]})";
constexpr const char* kNoPods = R"({"items":[]})";

KubectlOptions options() {
  KubectlOptions options;
  options.context = "here";
  options.name_space = "training";
  return options;
}

template <class Error, class Action>
std::string thrown(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown, or something else";
  return "";
}

TEST(Kubectl, AppliesOnTheServerWhatItIsGivenOnItsInput) {
  const FakeKubectl fake;
  const std::string yaml = "a: 1\n" + std::string(300'000, '#') + "\n---\nb: 2\n";
  Kubectl(options()).apply(yaml);
  EXPECT_EQ(fake.read("applied.1.yaml"), yaml);  // more than a pipe holds
  EXPECT_THAT(fake.calls(),
              ElementsAre("--context here --namespace training apply --server-side --field-manager "
                          "ballot --force-conflicts -f - --request-timeout 54s"));
}

TEST(Kubectl, AsksForTheJobAndItsPods) {
  const FakeKubectl fake;
  fake.write("get-job", kRunning);
  fake.write("get-pods", kOnePod);
  const KubernetesState state = Kubectl({}).state("first", KubernetesOperator::none);
  EXPECT_EQ(state.phase, KubernetesState::Phase::running);
  EXPECT_EQ(state.workers.at(0).name, "first-0-abcde");
  EXPECT_THAT(
      fake.calls(),
      ElementsAre(StartsWith("get job first --ignore-not-found -o json"),
                  StartsWith("get pods --selector app.kubernetes.io/instance=first -o json")));
}

TEST(Kubectl, AJobThatIsNotThereIsAbsent) {
  const FakeKubectl fake;
  EXPECT_EQ(Kubectl({}).state("first", KubernetesOperator::mpi).phase,
            KubernetesState::Phase::absent);
  EXPECT_THAT(fake.calls(), ElementsAre(StartsWith("get mpijobs.kubeflow.org first")));
}

TEST(Kubectl, ARefusalIsAConfigErrorThatSaysWhatTheClusterSays) {
  const FakeKubectl fake;
  fake.write("apply.code", "1");
  fake.write("apply.errors",
             "E1123 13:31:16.758253    2446 memcache.go:265] \"Unhandled Error\"\nError from "
             "server (Forbidden): jobs.batch is forbidden\n");
  const std::string said = thrown<ConfigError>([] { Kubectl(options()).apply("a: 1\n"); });
  EXPECT_THAT(said, AllOf(HasSubstr("jobs.batch is forbidden"), HasSubstr("namespace training"),
                          HasSubstr("context here"), HasSubstr("to take the job's objects"),
                          testing::Not(HasSubstr("memcache"))));
}

TEST(Kubectl, AClusterWithoutTheOperatorIsNamedAsThat) {
  const FakeKubectl fake;
  fake.write("get-mpijobs.code", "1");
  fake.write("get-mpijobs.errors", "error: the server doesn't have a resource type \"mpijobs\"\n");
  EXPECT_THAT(thrown<ConfigError>([] { Kubectl({}).state("first", KubernetesOperator::mpi); }),
              HasSubstr("needs Kubeflow's MPI operator"));
}

TEST(Kubectl, AClusterThatCannotBeReachedMayBeAskedAgain) {
  const FakeKubectl fake;
  fake.write("get-job.code", "1");
  for (const char* said : {"The connection to the server 10.0.0.1:6443 was refused - did you ...",
                           "Unable to connect to the server: dial tcp: i/o timeout",
                           "Error from server (ServiceUnavailable): try later"}) {
    fake.write("get-job.errors", said);
    const std::string text =
        thrown<TransportError>([] { Kubectl({}).state("first", KubernetesOperator::none); });
    EXPECT_THAT(text, HasSubstr("the state of job first"));
  }
}

TEST(Kubectl, ASilentClusterIsWaitedForAndNamed) {
  const FakeKubectl fake;
  fake.write("get-job.sleep", "30");
  KubectlOptions impatient = options();
  impatient.limit = std::chrono::milliseconds(300);
  const auto began = std::chrono::steady_clock::now();
  const std::string text =
      thrown<Timeout>([&] { Kubectl(impatient).state("first", KubernetesOperator::none); });
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
  EXPECT_THAT(text, AllOf(HasSubstr("within 0.3 s"), HasSubstr("the state of job first"),
                          HasSubstr("namespace training")));
}

TEST(Kubectl, WithoutKubectlItSaysWhatToInstall) {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  const std::string text = thrown<Unavailable>([] { Kubectl({}); });
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_THAT(text, AllOf(HasSubstr("kubectl is not in PATH"), HasSubstr("--dry-run")));
}

TEST(Kubectl, GivesTheLogsOfOneWorker) {
  const FakeKubectl fake;
  fake.write("logs", "step 1\nstep 2\n");
  EXPECT_EQ(Kubectl({}).logs("first", {KubernetesLog::Of::worker, 3}), "step 1\nstep 2\n");
  EXPECT_EQ(Kubectl({}).logs("first", {KubernetesLog::Of::coordinator}), "step 1\nstep 2\n");
  EXPECT_THAT(fake.calls(),
              ElementsAre(HasSubstr("logs --selector app.kubernetes.io/instance=first,"
                                    "batch.kubernetes.io/job-completion-index=3 --tail -1"),
                          HasSubstr("app.kubernetes.io/component=coordinator")));
}

TEST(Kubectl, FollowsALogUntilItEndsOrNobodyReadsOn) {
  const FakeKubectl fake;
  fake.write("logs", "step 1\n");
  std::string seen;
  int asked = 0;
  Kubectl({}).follow_logs(
      "first", {KubernetesLog::Of::worker, 0}, [&](std::string_view bytes) { seen += bytes; },
      [&] { return !seen.empty() && ++asked > 3; });
  EXPECT_EQ(seen, "step 1\n");
  EXPECT_TRUE(fake.has("logs.ended"));  // it was ended
  fake.write("logs.end", "");
  seen.clear();
  Kubectl({}).follow_pod(
      "first-0-abcde", [&](std::string_view bytes) { seen += bytes; }, [] { return false; });
  EXPECT_EQ(seen, "step 1\n");
  fake.write("logs.code", "1");
  fake.write("logs.errors", "pods \"first-0-abcde\" not found");
  EXPECT_THAT(thrown<TransportError>(
                  [] { Kubectl({}).follow_pod("first-0-abcde", [](std::string_view) {}, {}); }),
              AllOf(HasSubstr("pod first-0-abcde"), HasSubstr("not found")));
}

TEST(Kubectl, StopsAJobInOrderWorkersBeforeTheirCoordinator) {
  const FakeKubectl fake;
  fake.write("get-job.1", kRunning);
  fake.write("get-job", kSuspended);
  fake.write("get-pods", kOnePod);
  fake.write("get-pods.4", kNoPods);
  Kubectl(options()).stop("first", KubernetesOperator::none, std::chrono::seconds(60));
  const std::vector<std::string> calls = fake.calls();
  std::vector<std::string> changes;
  for (const std::string& call : calls)
    if (call.find(" get ") == std::string::npos) changes.push_back(call);
  EXPECT_THAT(
      changes,
      ElementsAre(HasSubstr(R"(patch job first --type merge --patch {"spec":{"suspend":true}})"),
                  HasSubstr("delete job first"),
                  AllOf(HasSubstr("delete statefulset,service,configmap,secret --selector "
                                  "app.kubernetes.io/instance=first"),
                        HasSubstr("managed-by=ballot"))));
  EXPECT_THAT(calls[calls.size() - 3], HasSubstr("get pods"));  // looked until nobody was left
  EXPECT_EQ(calls.size(), 2u * 4 + 3);
}

TEST(Kubectl, WorkersThatDoNotLeaveAreNamedAndNothingIsDeleted) {
  const FakeKubectl fake;
  fake.write("get-job", kRunning);
  fake.write("get-pods", kOnePod);
  EXPECT_THAT(thrown<Timeout>([] {
                Kubectl({}).stop("first", KubernetesOperator::none, std::chrono::milliseconds(700));
              }),
              HasSubstr("there still run first-0-abcde"));
  for (const std::string& call : fake.calls()) EXPECT_THAT(call, testing::Not(HasSubstr("delete")));
}

TEST(Kubectl, StoppingWhatIsNotThereDeletesWhatIsLeftOfIt) {
  const FakeKubectl fake;
  Kubectl({}).stop("first", KubernetesOperator::none, std::chrono::seconds(1));
  EXPECT_THAT(fake.calls(), ElementsAre(StartsWith("get job first"), StartsWith("delete job first"),
                                        StartsWith("delete statefulset,service,configmap,secret")));
}

}  // namespace
}  // namespace ballot
