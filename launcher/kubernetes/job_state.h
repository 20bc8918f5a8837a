// How a job on Kubernetes stands, read from what the cluster says of its Job and its pods.
//
// What a cluster says is untrusted: anything may be missing or of another type. A number or a text
// that is not there counts as none; JSON that is none, or no object, is a DataError.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace ballot {

struct KubernetesPod {
  std::string name, phase;       // Pending, Running, Succeeded, Failed
  std::string waits_for;         // "ImagePullBackOff: ...", "Unschedulable: ..."; empty: nothing
  std::optional<int> exit_code;  // of its container, once it has ended
  std::string reason;            // OOMKilled, Evicted, ...
  std::string created;           // RFC 3339, which sorts by time
};

struct KubernetesState {
  enum class Phase { absent, queued, running, suspended, done, failed };
  Phase phase = Phase::absent;
  std::string uid;
  int wanted = 0, running = 0, succeeded = 0, failed = 0;  // workers: voters, failed for good
  int ended_badly = 0;                                     // pods, of which others took the place
  std::string reason;                                      // of the end, or what is waited for
  std::map<int, KubernetesPod> workers;                    // the newest pod of each
  std::optional<KubernetesPod> coordinator, launcher;      // the latter of an MPIJob

  bool over() const { return phase == Phase::done || phase == Phase::failed; }
};

const char* to_string(KubernetesState::Phase phase);

// `job`: kubectl get job (or mpijob) -o json, or empty where there is none; `pods`: a list of those
// with the job's label, or empty.
KubernetesState parse_kubernetes_state(const std::string& job, const std::string& pods);

// "0-2,5" -> 4; what is no such list counts as far as it is one.
int count_indexes(const std::string& text);

// The code that `ballot launch` ends with (README): 0; 5 where all were sent away; the worst of its
// workers' own; 4 where nobody says.
int exit_code_of(const KubernetesState& state);

// Pods of workers, and of an MPIJob's launcher, that have not ended yet.
std::vector<std::string> pods_left(const KubernetesState& state);

// One line: "running: 3 of 4 workers, 1 done; worker 2 waits for ImagePullBackOff: ...".
std::string describe(const KubernetesState& state);

}  // namespace ballot
