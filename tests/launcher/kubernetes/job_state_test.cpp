// What a cluster says of a job, read: the phases of its life, and what is damaged.
#include "launcher/kubernetes/job_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace ballot {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;
using Phase = KubernetesState::Phase;

Json job_with(const Json& status) {
  return {{"kind", "Job"},
          {"metadata", {{"name", "first"}, {"uid", "u-1"}}},
          {"spec", {{"completions", 4}}},
          {"status", status}};
}

Json condition(const char* type, const char* reason = "", const char* message = "") {
  return {{"type", type}, {"status", "True"}, {"reason", reason}, {"message", message}};
}

Json pod(int worker, const char* created, const char* phase, const Json& container) {
  return {
      {"metadata",
       {{"name", fmt::format("first-{}-{}", worker, created)},
        {"creationTimestamp", created},
        {"labels",
         {{"app.kubernetes.io/component", "worker"},
          {"batch.kubernetes.io/job-completion-index", std::to_string(worker)}}}}},
      {"status", {{"phase", phase}, {"containerStatuses", Json::array({{{"state", container}}})}}}};
}

Json ended(int code, const char* reason = "Error") {
  return {{"terminated", {{"exitCode", code}, {"reason", reason}}}};
}

KubernetesState state_of(const Json& job, const std::vector<Json>& pods = {}) {
  return parse_kubernetes_state(job.dump(), Json{{"items", pods}}.dump());
}

TEST(KubernetesState, FollowsAJobThroughItsLife) {
  EXPECT_EQ(parse_kubernetes_state("", "").phase, Phase::absent);
  EXPECT_EQ(parse_kubernetes_state(" \n", "").phase, Phase::absent);
  EXPECT_EQ(state_of(job_with(Json::object())).phase, Phase::queued);
  EXPECT_EQ(state_of(job_with({{"active", 4}, {"ready", 0}})).phase, Phase::queued);
  const KubernetesState running = state_of(job_with({{"active", 4}, {"ready", 3}}));
  EXPECT_EQ(running.phase, Phase::running);
  EXPECT_EQ(running.running, 3);
  EXPECT_EQ(running.wanted, 4);
  EXPECT_EQ(running.uid, "u-1");
  const KubernetesState done = state_of(
      job_with({{"succeeded", 4},
                {"conditions", Json::array({condition("Complete", "CompletionsReached")})}}));
  EXPECT_EQ(done.phase, Phase::done);
  EXPECT_EQ(exit_code_of(done), 0);
  EXPECT_EQ(state_of(job_with({{"conditions", Json::array({condition("Suspended")})}})).phase,
            Phase::suspended);
}

TEST(KubernetesState, AConditionThatDoesNotHoldSaysNothing) {
  Json not_failed = condition("Failed");
  not_failed["status"] = "False";
  EXPECT_EQ(
      state_of(job_with({{"active", 1}, {"ready", 1}, {"conditions", Json::array({not_failed})}}))
          .phase,
      Phase::running);
}

TEST(KubernetesState, TheExitCodeIsThatOfTheWorkerThatEndedTheJob) {
  const Json failed = {{"conditions", Json::array({condition("Failed", "PodFailurePolicy")})}};
  // The others left because of it, with 4.
  EXPECT_EQ(exit_code_of(state_of(job_with(failed),
                                  {pod(0, "1", "Failed", ended(4)), pod(1, "1", "Failed", ended(3)),
                                   pod(2, "1", "Failed", ended(143))})),
            3);
  EXPECT_EQ(exit_code_of(state_of(job_with(failed), {pod(0, "1", "Failed", ended(4)),
                                                     pod(1, "1", "Failed", ended(137))})),
            137);
  // A pod of which nothing is left to ask.
  EXPECT_EQ(exit_code_of(state_of(job_with(failed))), 4);
}

TEST(KubernetesState, ARunThatEndedWithoutSomeIsDone) {
  const Json failed = {{"succeeded", 3},
                       {"failedIndexes", "2"},
                       {"conditions", Json::array({condition("Failed", "FailedIndexes")})}};
  const KubernetesState state = state_of(
      job_with(failed), {pod(0, "1", "Succeeded", ended(0)), pod(2, "1", "Failed", ended(5))});
  EXPECT_EQ(state.failed, 1);
  EXPECT_EQ(exit_code_of(state), 0);
  const Json all = {{"failedIndexes", "0-3"},
                    {"conditions", Json::array({condition("Failed", "FailedIndexes")})}};
  EXPECT_EQ(exit_code_of(state_of(
                job_with(all), {pod(0, "1", "Failed", ended(5)), pod(1, "1", "Failed", ended(5))})),
            5);
}

TEST(KubernetesState, OfAWorkersPodsTheNewestCounts) {
  const KubernetesState state =
      state_of(job_with({{"active", 1}, {"ready", 1}, {"failed", 1}}),
               {pod(1, "2026-11-23T12:00:05Z", "Running", {{"running", Json::object()}}),
                pod(1, "2026-11-23T12:00:01Z", "Failed", ended(137, "OOMKilled"))});
  ASSERT_EQ(state.workers.size(), 1u);
  EXPECT_EQ(state.workers.at(1).phase, "Running");
  EXPECT_FALSE(state.workers.at(1).exit_code.has_value());
  EXPECT_EQ(state.ended_badly, 1);
}

TEST(KubernetesState, SaysWhatIsWaitedFor) {
  EXPECT_THAT(
      describe(state_of(
          job_with({{"active", 1}, {"ready", 0}}),
          {pod(2, "1", "Pending",
               {{"waiting", {{"reason", "ImagePullBackOff"}, {"message", "no such image"}}}})})),
      HasSubstr("queued: 0 of 4 workers run; worker 2 waits: ImagePullBackOff: no such image"));
  Json unscheduled = pod(0, "1", "Pending", Json::object());
  unscheduled["status"]["conditions"] =
      Json::array({{{"type", "PodScheduled"},
                    {"status", "False"},
                    {"reason", "Unschedulable"},
                    {"message", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"}}});
  EXPECT_THAT(describe(state_of(job_with({{"active", 1}}), {unscheduled})),
              HasSubstr("3 Insufficient nvidia.com/gpu"));
  // Being started is nothing to speak of.
  EXPECT_EQ(state_of(job_with({{"active", 1}, {"ready", 0}}),
                     {pod(0, "1", "Pending", {{"waiting", {{"reason", "ContainerCreating"}}}})})
                .reason,
            "");
}

TEST(KubernetesState, ReadsAnMpiJob) {
  const auto mpi = [](const Json& status) -> Json {
    return {{"kind", "MPIJob"},
            {"spec", {{"mpiReplicaSpecs", {{"Worker", {{"replicas", 4}}}}}}},
            {"status", status}};
  };
  EXPECT_EQ(state_of(mpi(Json::object())).phase, Phase::queued);
  const KubernetesState running =
      state_of(mpi({{"replicaStatuses", {{"Worker", {{"active", 4}}}}},
                    {"conditions", Json::array({condition("Running")})}}));
  EXPECT_EQ(running.phase, Phase::running);
  EXPECT_EQ(running.running, 4);
  EXPECT_EQ(state_of(mpi({{"conditions", Json::array({condition("Succeeded")})}})).phase,
            Phase::done);
  Json launcher = pod(0, "1", "Failed", ended(3));
  launcher["metadata"]["labels"]["app.kubernetes.io/component"] = "launcher";
  EXPECT_EQ(
      exit_code_of(state_of(mpi({{"conditions", Json::array({condition("Failed")})}}), {launcher})),
      3);
}

TEST(KubernetesState, CountsIndexesAsTheClusterWritesThem) {
  EXPECT_EQ(count_indexes(""), 0);
  EXPECT_EQ(count_indexes("3"), 1);
  EXPECT_EQ(count_indexes("0-2,5"), 4);
  EXPECT_EQ(count_indexes("1,3-5,7"), 5);
  for (const char* text : {"5-1", "x", "-", "1-", "99999999999999999999", "0-99999999999999999999"})
    EXPECT_GE(count_indexes(text), 0) << text;
}

TEST(KubernetesState, WhatIsNoJsonIsADataErrorAndWhatIsMissingIsNone) {
  for (const char* text : {"{", "[]", "3", "null", "error: no"})
    EXPECT_THROW(parse_kubernetes_state(text, ""), DataError) << text;
  EXPECT_THROW(parse_kubernetes_state("{}", "[1]"), DataError);
  for (const char* text :
       {"{}", R"({"status":3,"spec":[],"metadata":"x"})", R"({"status":{"conditions":{"a":1}}})",
        R"({"status":{"conditions":[3,null,{"type":5}]}})",
        R"({"status":{"active":-5,"ready":1e300}})", R"({"status":{"active":99999999999}})",
        R"({"kind":"MPIJob","status":{"replicaStatuses":7}})"}) {
    const KubernetesState state =
        parse_kubernetes_state(text, R"({"items":[1,{"metadata":{"labels":4}}]})");
    EXPECT_EQ(state.phase, Phase::queued) << text;
    EXPECT_GE(state.running, 0) << text;
  }
}

}  // namespace
}  // namespace ballot
