// What a cluster says of a job.
#include "core/error.h"
#include "launcher/kubernetes/job_state.h"
#include "tests/fuzz/entries.h"

namespace ballot::fuzz {
namespace {

constexpr const char* kJob =
    R"({"kind":"Job","metadata":{"uid":"u"},"spec":{"completions":4},"status":{"active":3,"ready":2,)"
    R"("succeeded":1,"failed":2,"failedIndexes":"0-2,5","conditions":[{"type":"Failed","status":"True",)"
    R"("reason":"FailedIndexes","message":"m"}]}})";
constexpr const char* kPods =
    R"({"items":[{"metadata":{"name":"a","creationTimestamp":"1","labels":{)"
    R"("batch.kubernetes.io/job-completion-index":"2"}},"status":{"phase":"Pending","conditions":[)"
    R"({"type":"PodScheduled","status":"False","reason":"r"}],"containerStatuses":[{"state":{)"
    R"("terminated":{"exitCode":3},"waiting":{"reason":"w"}}}]}},{"metadata":{"labels":{)"
    R"("app.kubernetes.io/component":"coordinator"}}}]})";

// The job and its pods, with a line that is not JSON's between them.
bool run_kubernetes_state(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::size_t cut = std::min(text.find("\n---\n"), text.size());
  try {
    const KubernetesState state =
        parse_kubernetes_state(std::string(text.substr(0, cut)),
                               cut == text.size() ? "" : std::string(text.substr(cut + 5)));
    require(!describe(state).empty(), "a state without words");
    const int code = exit_code_of(state);
    require(state.phase != KubernetesState::Phase::done || code == 0, "done with {}", code);
    require(state.running >= 0 && state.failed >= 0, "{} run, {} failed", state.running,
            state.failed);
    pods_left(state);
    return true;
  } catch (const WorldError&) {
    return false;
  }
}

}  // namespace

std::vector<Entry> with_cluster_entries(std::vector<Entry> entries) {
  entries.push_back({"kubernetes_state",
                     run_kubernetes_state,
                     {std::string(kJob) + "\n---\n" + kPods,
                      R"({"kind":"MPIJob","spec":{"mpiReplicaSpecs":{"Worker":{"replicas":4}}},)"
                      R"("status":{"replicaStatuses":{"Worker":{"active":4}}}})"}});
  return entries;
}

}  // namespace ballot::fuzz
