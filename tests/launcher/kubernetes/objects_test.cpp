// The rendered objects against golden files, and the rules that they have to keep.
//
// BALLOT_UPDATE_GOLDEN=1 in the environment writes the golden files anew.
#include "launcher/kubernetes/kubernetes_objects.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include "core/error.h"
#include "tests/launcher/kubernetes/kubernetes_samples.h"

namespace ballot {
namespace {

using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::ordered_json;

std::string golden_file(const std::string& name) {
  return std::string(BALLOT_GOLDEN) + "/" + name + ".yaml";
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Json object_of(const KubernetesJob& job, const std::string& kind) {
  for (const KubernetesObject& one : kubernetes_objects(job))
    if (one.object["kind"] == kind) return one.object;
  ADD_FAILURE() << "no " << kind;
  return {};
}

Json worker_of(const KubernetesJob& job) {
  return object_of(job, "Job")["spec"]["template"]["spec"]["containers"][0];
}

Json coordinator_of(const KubernetesJob& job) {
  return object_of(job, "StatefulSet")["spec"]["template"]["spec"]["containers"][0];
}

// The specs of an object's pods.
std::vector<Json> pods_of(const Json& object) {
  const std::string kind = object["kind"];
  if (kind == "Job" || kind == "StatefulSet") return {object["spec"]["template"]["spec"]};
  std::vector<Json> pods;
  if (kind == "MPIJob")
    for (const char* role : {"Launcher", "Worker"})
      pods.push_back(object["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]);
  return pods;
}

std::string problem_of(const KubernetesJob& job) {
  try {
    yaml_documents(kubernetes_objects(job));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(KubernetesObjects, AreTheGoldenFiles) {
  for (const auto& [name, job] : kubernetes_samples()) {
    const std::string text = yaml_documents(kubernetes_objects(job));
    if (std::getenv("BALLOT_UPDATE_GOLDEN") != nullptr) std::ofstream(golden_file(name)) << text;
    EXPECT_EQ(text, read_file(golden_file(name))) << name;
  }
}

TEST(KubernetesObjects, AnExitCodeMeansToTheClusterWhatTheReadmeSays) {
  const Json policy = object_of(plain_job(), "Job")["spec"]["podFailurePolicy"]["rules"];
  // The first rule that matches decides.
  const auto action = [&policy](int code, bool disrupted) -> std::string {
    for (const Json& rule : policy) {
      if (rule.contains("onPodConditions")) {
        if (disrupted) return rule["action"];
        continue;
      }
      const Json& values = rule["onExitCodes"]["values"];
      const bool listed = std::find(values.begin(), values.end(), code) != values.end();
      if (listed == (rule["onExitCodes"]["operator"] == "In") && code != 0) return rule["action"];
    }
    return "none";
  };
  for (const int code : {1, 2, 3}) EXPECT_EQ(action(code, false), "FailJob") << code;
  for (const int code : {4, 130, 137, 139, 143}) {
    EXPECT_EQ(action(code, false), "Count") << code;
    EXPECT_EQ(action(code, true), "Ignore") << code;
  }
  EXPECT_EQ(action(5, false), "FailIndex");
  EXPECT_EQ(action(0, false), "none");
}

TEST(KubernetesObjects, AsManyMayFailForGoodAsTheRunCanDoWithout) {
  KubernetesJob job = plain_job();
  job.voters = 5;
  job.min_workers = 3;
  job.max_restarts = 7;
  const Json spec = object_of(job, "Job")["spec"];
  EXPECT_EQ(spec["completions"], 5);
  EXPECT_EQ(spec["parallelism"], 5);
  EXPECT_EQ(spec["maxFailedIndexes"], 2);
  EXPECT_EQ(spec["backoffLimitPerIndex"], 7);
  const Json arguments = coordinator_of(job)["args"];
  const std::string text = arguments.dump();
  EXPECT_THAT(text, HasSubstr(R"("--start-workers","5","--min-workers","3")"));
}

TEST(KubernetesObjects, ASelectorFindsThePodsAndOnlyThem) {
  KubernetesJob job = plain_job();
  job.labels = {{"team", "a"}};
  const Json set = object_of(job, "StatefulSet"), service = object_of(job, "Service"),
             workers = object_of(job, "Job");
  const Json selector = set["spec"]["selector"]["matchLabels"];
  EXPECT_EQ(selector, service["spec"]["selector"]);
  const auto matches = [&selector](const Json& labels) {
    for (const auto& [key, value] : selector.items())
      if (!labels.contains(key) || labels[key] != value) return false;
    return true;
  };
  EXPECT_TRUE(matches(set["spec"]["template"]["metadata"]["labels"]));
  EXPECT_FALSE(matches(workers["spec"]["template"]["metadata"]["labels"]));
  EXPECT_EQ(set["spec"]["serviceName"], service["metadata"]["name"]);
}

TEST(KubernetesObjects, EveryMountHasItsVolume) {
  for (const auto& [name, job] : kubernetes_samples())
    for (const KubernetesObject& one : kubernetes_objects(job)) {
      const std::vector<Json> pods = pods_of(one.object);
      for (const Json& pod : pods) {
        std::set<std::string> volumes, mounts;
        for (const Json& volume : pod["volumes"]) volumes.insert(volume["name"]);
        for (const Json& mount : pod["containers"][0]["volumeMounts"]) mounts.insert(mount["name"]);
        EXPECT_EQ(volumes, mounts) << name << " " << one.object["kind"];
      }
    }
}

TEST(KubernetesObjects, ADryRunShowsNoSecretAndNoneThatCouldBeUsed) {
  const std::string text = yaml_documents(kubernetes_objects(plain_job()));
  EXPECT_THAT(text, HasSubstr("# BALLOT_TOKEN is generated at submission and not shown"));
  EXPECT_FALSE(object_of(plain_job(), "Secret").contains("stringData"));
  KubernetesJob submitted = plain_job();
  submitted.token = "of-this-job";
  EXPECT_EQ(object_of(submitted, "Secret")["stringData"]["BALLOT_TOKEN"], "of-this-job");
  // The value is in the Secret alone.
  for (const KubernetesObject& one : kubernetes_objects(submitted))
    if (one.object["kind"] != "Secret") {
      EXPECT_THAT(one.object.dump(), Not(HasSubstr("of-this-job")));
    }
}

TEST(KubernetesObjects, AnExistingSecretIsUsedAndNotRendered) {
  KubernetesJob job = plain_job();
  job.token_secret = "ours";
  for (const KubernetesObject& one : kubernetes_objects(job))
    EXPECT_NE(one.object["kind"], "Secret");
  EXPECT_EQ(worker_of(job)["env"][0]["valueFrom"]["secretKeyRef"]["name"], "ours");
  EXPECT_EQ(coordinator_of(job)["env"][0]["valueFrom"]["secretKeyRef"]["name"], "ours");
}

TEST(KubernetesObjects, WithTlsNoProbeSpeaksPlainGrpc) {
  KubernetesJob job = plain_job();
  EXPECT_TRUE(coordinator_of(job)["livenessProbe"].contains("grpc"));
  job.tls_secret = "first-tls";
  job.tls_name = "first-coordinator";
  const Json one = coordinator_of(job);
  for (const char* probe : {"startupProbe", "readinessProbe", "livenessProbe"})
    EXPECT_FALSE(one[probe].contains("grpc")) << probe;
  const std::string status = one["readinessProbe"]["exec"]["command"].dump();
  for (const char* word : {"status", "--tls-ca", "--tls-certificate", "--tls-key", "--tls-name"})
    EXPECT_THAT(status, HasSubstr(word));
  EXPECT_THAT(worker_of(job)["args"].dump(), HasSubstr("\"--tls-name\",\"first-coordinator\""));
  EXPECT_THAT(one["args"].dump(), Not(HasSubstr("--tls-name")));  // it dials nobody
}

TEST(KubernetesObjects, TheClusterReplacesNothingInWhatAPersonGave) {
  KubernetesJob job = plain_job();
  job.settings = {"output.folder=$(POD_IP)", "model.folder=$$x"};
  const std::string text = worker_of(job)["args"].dump();
  EXPECT_THAT(text, HasSubstr("output.folder=$$(POD_IP)"));
  EXPECT_THAT(text, HasSubstr("model.folder=$$$$x"));
  EXPECT_THAT(text, HasSubstr("\"$(POD_IP):29501\""));
}

TEST(KubernetesObjects, APodOfSeveralProcessesIsAskedBeforeItIsEnded) {
  KubernetesJob job = plain_job();
  EXPECT_FALSE(worker_of(job).contains("lifecycle"));  // SIGTERM is enough
  job.members = 4;
  job.threads = 1;
  const Json one = worker_of(job);
  EXPECT_THAT(one["lifecycle"]["preStop"].dump(), HasSubstr("kill -USR1 1"));
  EXPECT_THAT(one["command"].dump(), HasSubstr(R"("-n","4","ballot","train")"));
}

TEST(KubernetesObjects, PodsMeetTheRestrictedStandard) {
  for (const auto& [name, job] : kubernetes_samples())
    for (const KubernetesObject& one : kubernetes_objects(job)) {
      if (one.object["kind"] == "MPIJob" || pods_of(one.object).empty()) continue;
      const Json pod = pods_of(one.object)[0];
      EXPECT_EQ(pod["securityContext"]["runAsNonRoot"], true) << name;
      EXPECT_EQ(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault") << name;
      const Json& security = pod["containers"][0]["securityContext"];
      EXPECT_EQ(security["allowPrivilegeEscalation"], false) << name;
      EXPECT_EQ(security["capabilities"]["drop"], Json::array({"ALL"})) << name;
    }
}

TEST(KubernetesObjects, WhatTheJobOwnsGoesWithIt) {
  KubernetesJob job = plain_job();
  job.owner_uid = "1234";
  for (const KubernetesObject& one : kubernetes_objects(job)) {
    const Json& about = one.object["metadata"];
    const bool owned = about.contains("ownerReferences");
    EXPECT_EQ(owned, one.object["kind"] != "Job") << one.object["kind"];
    if (owned) {
      EXPECT_EQ(about["ownerReferences"][0]["uid"], "1234");
    }
  }
}

struct Mistake {
  std::string what;
  std::function<void(KubernetesJob&)> make;
  std::string expected;
};

TEST(KubernetesObjects, AMistakeIsRefusedWithItsNameItsValueAndTheRule) {
  const std::vector<Mistake> mistakes = {
      {"capitals", [](auto& job) { job.name = "First"; }, "--name \"First\": expected a DNS"},
      {"a digit first", [](auto& job) { job.name = "1st"; }, "a letter first"},
      {"too long", [](auto& job) { job.name = std::string(41, 'a'); }, "1 to 40"},
      {"no name", [](auto& job) { job.name = ""; }, "--name \"\""},
      {"namespace", [](auto& job) { job.name_space = "a.b"; }, "--namespace \"a.b\""},
      {"no image", [](auto& job) { job.image = ""; }, "--kube-image \"\": expected an image"},
      {"image", [](auto& job) { job.image = "a b"; }, "--kube-image \"a b\""},
      {"claim", [](auto& job) { job.claim = "a_b"; }, "--kube-claim \"a_b\": expected a DNS name"},
      {"mount", [](auto& job) { job.mount_path = "data"; }, "expected an absolute path"},
      {"mount over", [](auto& job) { job.mount_path = "/ballot"; }, "something else at"},
      {"mount in", [](auto& job) { job.mount_path = "/tmp/x"; }, "something else at /tmp"},
      {"cpus", [](auto& job) { job.cpus = "4 cores"; }, "--kube-cpus \"4 cores\": expected a Kub"},
      {"few cpus", [](auto& job) { job.cpus = "4m"; }, "is 0.004 cores"},
      {"threads", [](auto& job) { job.threads = 5; }, "4 cores for 5 threads in each of 1"},
      {"memory", [](auto& job) { job.memory = "8GB"; }, "--kube-memory \"8GB\""},
      {"tiny", [](auto& job) { job.memory = "512m"; }, "is 0.512 bytes"},
      {"gpus", [](auto& job) { job.gpus = -1; }, "--kube-gpus -1"},
      {"minimum", [](auto& job) { job.min_workers = 5; }, "--min-workers 5: expected 1 to 4"},
      {"root", [](auto& job) { job.user = 0; }, "pods do not run as root"},
      {"label",
       [](auto& job) {
         job.labels = {{"a b", "c"}};
       },
       "expected the key of a label"},
      {"value",
       [](auto& job) {
         job.labels = {{"a", "-"}};
       },
       "expected the value of a label"},
      {"ours",
       [](auto& job) {
         job.labels = {{"app.kubernetes.io/name", "x"}};
       },
       "not yours"},
      {"policy", [](auto& job) { job.pull_policy = "Sometimes"; }, "expected Always, IfNotPresent"},
      {"tls name",
       [](auto& job) {
         job.tls_secret = "tls";
         job.tls_name = "*";
       },
       "--kube-tls-name \"*\""},
      {"large", [](auto& job) { job.run_text = std::string(1 << 20, '#'); }, "a ConfigMap takes"},
      {"no UTF-8", [](auto& job) { job.settings = {"a=\xff"}; }, "not UTF-8"},
      {"mpi tls",
       [](auto& job) {
         job.controller = KubernetesOperator::mpi;
         job.min_workers = 4;
         job.tls_secret = "tls";
         job.tls_name = "x";
       },
       "expected neither"},
      {"mpi minimum", [](auto& job) { job.controller = KubernetesOperator::mpi; }, "all its 4"},
      {"mpi user",
       [](auto& job) {
         job.controller = KubernetesOperator::mpi;
         job.min_workers = 4;
         job.user = 7;
       },
       "the image's own user"},
  };
  EXPECT_EQ(problem_of(plain_job()), "");
  for (const Mistake& mistake : mistakes) {
    KubernetesJob job = plain_job();
    mistake.make(job);
    EXPECT_THAT(problem_of(job), HasSubstr(mistake.expected)) << mistake.what;
  }
}

}  // namespace
}  // namespace ballot
