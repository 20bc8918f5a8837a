#include "launcher/kubernetes/job_state.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace ballot {
namespace {

using Json = nlohmann::json;

const Json kNothing;

// Of an object; kNothing where there is no such thing.
const Json& at(const Json& tree, const char* key) {
  if (!tree.is_object()) return kNothing;
  const auto found = tree.find(key);
  return found == tree.end() ? kNothing : *found;
}
template <class... Keys>
const Json& at(const Json& tree, const char* key, const Keys*... keys) {
  return at(at(tree, key), keys...);
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : "";
}

std::optional<int> number_of(const Json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  const auto number = value.get<std::int64_t>();
  if (number < std::numeric_limits<int>::min() || number > std::numeric_limits<int>::max())
    return std::nullopt;
  return static_cast<int>(number);
}

int count_of(const Json& value) {
  return std::max(0, number_of(value).value_or(0));
}

Json parse(const std::string& text, const char* what) {
  Json tree = Json::parse(text, nullptr, false);
  if (!tree.is_object())
    throw DataError("{}: kubectl gave no JSON object: \"{}\"", what, text.substr(0, 80));
  return tree;
}

std::string reason_of(const Json& one) {
  const std::string reason = text_of(at(one, "reason")), message = text_of(at(one, "message"));
  return reason.empty() || message.empty() ? reason + message : reason + ": " + message;
}

// A condition that holds, or kNothing.
const Json& condition(const Json& object, const char* type) {
  const Json& all = at(object, "status", "conditions");
  if (all.is_array())
    for (const Json& one : all)
      if (at(one, "type") == type && at(one, "status") == "True") return one;
  return kNothing;
}

KubernetesPod read_pod(const Json& pod) {
  KubernetesPod read;
  read.name = text_of(at(pod, "metadata", "name"));
  read.created = text_of(at(pod, "metadata", "creationTimestamp"));
  read.phase = text_of(at(pod, "status", "phase"));
  read.reason = text_of(at(pod, "status", "reason"));
  const Json& containers = at(pod, "status", "containerStatuses");
  if (containers.is_array() && !containers.empty()) {
    const Json& state = at(containers[0], "state");
    const Json& ended = at(state, "terminated");
    read.exit_code = number_of(at(ended, "exitCode"));
    if (read.reason.empty()) read.reason = text_of(at(ended, "reason"));
    const std::string waiting = text_of(at(state, "waiting", "reason"));
    if (!waiting.empty() && waiting != "ContainerCreating" && waiting != "PodInitializing")
      read.waits_for = reason_of(at(state, "waiting"));
  }
  const Json& conditions = at(pod, "status", "conditions");
  if (read.phase == "Pending" && conditions.is_array())
    for (const Json& one : conditions)
      if (at(one, "type") == "PodScheduled" && at(one, "status") == "False")
        read.waits_for = reason_of(one);
  return read;
}

// The worker's number that a pod has, by its label (1.28) or its older annotation.
std::optional<int> worker_of(const Json& pod) {
  constexpr const char* kIndex = "batch.kubernetes.io/job-completion-index";
  std::string text = text_of(at(pod, "metadata", "labels", kIndex));
  if (text.empty()) text = text_of(at(pod, "metadata", "annotations", kIndex));
  if (text.empty())
    text = text_of(at(pod, "metadata", "labels", "training.kubeflow.org/replica-index"));
  if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return std::atoi(text.c_str());
}

void read_pods(const Json& pods, KubernetesState& state) {
  const Json& items = at(pods, "items");
  if (!items.is_array()) return;
  const auto keep = [](auto& place, const KubernetesPod& pod) {
    if (place.name.empty() || place.created < pod.created) place = pod;
  };
  for (const Json& pod : items) {
    const KubernetesPod read = read_pod(pod);
    const std::string component =
        text_of(at(pod, "metadata", "labels", "app.kubernetes.io/component"));
    if (component == "coordinator") {
      if (!state.coordinator) state.coordinator.emplace();
      keep(*state.coordinator, read);
    } else if (component == "launcher") {
      if (!state.launcher) state.launcher.emplace();
      keep(*state.launcher, read);
    } else if (const std::optional<int> worker = worker_of(pod)) {
      keep(state.workers[*worker], read);
    }
  }
}

void read_job(const Json& job, KubernetesState& state) {
  const Json& status = at(job, "status");
  state.wanted = count_of(at(job, "spec", "completions"));
  state.succeeded = count_of(at(status, "succeeded"));
  state.failed = count_indexes(text_of(at(status, "failedIndexes")));
  state.ended_badly = count_of(at(status, "failed"));
  const int active = count_of(at(status, "active"));
  const std::optional<int> ready = number_of(at(status, "ready"));
  state.running = std::clamp(ready.value_or(active), 0, active);
  const int running = state.running;
  state.phase = running > 0 ? KubernetesState::Phase::running : KubernetesState::Phase::queued;
}

void read_mpi_job(const Json& job, KubernetesState& state) {
  const Json& status = at(job, "status");
  state.wanted = count_of(at(job, "spec", "mpiReplicaSpecs", "Worker", "replicas"));
  state.running = count_of(at(status, "replicaStatuses", "Worker", "active"));
  state.ended_badly = count_of(at(status, "replicaStatuses", "Launcher", "failed"));
  state.phase = condition(job, "Running").is_null() ? KubernetesState::Phase::queued
                                                    : KubernetesState::Phase::running;
}

}  // namespace

const char* to_string(KubernetesState::Phase phase) {
  switch (phase) {
    case KubernetesState::Phase::absent:
      return "absent";
    case KubernetesState::Phase::queued:
      return "queued";
    case KubernetesState::Phase::running:
      return "running";
    case KubernetesState::Phase::suspended:
      return "suspended";
    case KubernetesState::Phase::done:
      return "done";
    case KubernetesState::Phase::failed:
      break;
  }
  return "failed";
}

int count_indexes(const std::string& text) {
  std::int64_t count = 0;
  const char* place = text.c_str();
  while (*place >= '0' && *place <= '9') {
    char* end = nullptr;
    const long long first = std::strtoll(place, &end, 10);
    long long last = first;
    if (*end == '-') last = std::strtoll(end + 1, &end, 10);
    // Clamped: a cluster's Job has 10^5 pods at most.
    if (last >= first) count += std::min<long long>(last - std::min(first, last), 100'000) + 1;
    place = *end == ',' ? end + 1 : "";
    if (count > 1'000'000) break;
  }
  return static_cast<int>(std::min<std::int64_t>(count, 1'000'000));
}

KubernetesState parse_kubernetes_state(const std::string& job_text, const std::string& pods_text) {
  KubernetesState state;
  if (job_text.find_first_not_of(" \n\r\t") == std::string::npos) return state;
  const Json job = parse(job_text, "the job");
  state.uid = text_of(at(job, "metadata", "uid"));
  if (at(job, "kind") == "MPIJob")
    read_mpi_job(job, state);
  else
    read_job(job, state);
  if (pods_text.find_first_not_of(" \n\r\t") != std::string::npos)
    read_pods(parse(pods_text, "the job's pods"), state);
  using Phase = KubernetesState::Phase;
  for (const auto& [type, phase] : {std::pair{"Suspended", Phase::suspended},
                                    {"Complete", Phase::done},
                                    {"Succeeded", Phase::done},
                                    {"Failed", Phase::failed}})
    if (const Json& one = condition(job, type); !one.is_null()) {
      state.phase = phase;
      state.reason = reason_of(one);
    }
  if (state.over() || state.phase == Phase::suspended) return state;
  for (const auto& [worker, pod] : state.workers)
    if (state.reason.empty() && !pod.waits_for.empty())
      state.reason = fmt::format("worker {} waits: {}", worker, pod.waits_for);
  if (state.coordinator && !state.coordinator->waits_for.empty())
    state.reason = "the coordinator waits: " + state.coordinator->waits_for;
  return state;
}

int exit_code_of(const KubernetesState& state) {
  if (state.phase == KubernetesState::Phase::done) return static_cast<int>(ExitCode::done);
  std::optional<int> worst;
  std::size_t sent_away = 0;
  const auto look = [&](const KubernetesPod& pod) {
    if (!pod.exit_code || *pod.exit_code == 0) return;
    if (*pod.exit_code == static_cast<int>(ExitCode::sent_away)) {
      ++sent_away;
      return;
    }
    // 1, 2 and 3 ended the job; the others left because of them.
    const auto weight = [](int code) { return code >= 1 && code <= 3 ? 0 : code == 4 ? 2 : 1; };
    if (!worst || weight(*pod.exit_code) < weight(*worst)) worst = pod.exit_code;
  };
  for (const auto& [worker, pod] : state.workers) look(pod);
  if (state.launcher) look(*state.launcher);
  const bool final_code = worst && *worst >= 1 && *worst <= 3;
  // A worker ends with 0 only when the run has ended: what others ended with is theirs.
  if (!final_code && state.succeeded > 0) return static_cast<int>(ExitCode::done);
  if (worst) return *worst;
  if (sent_away > 0 && sent_away == state.workers.size())
    return static_cast<int>(ExitCode::sent_away);
  return static_cast<int>(ExitCode::retry);
}

std::vector<std::string> pods_left(const KubernetesState& state) {
  std::vector<std::string> names;
  const auto look = [&names](const KubernetesPod& pod) {
    if (pod.phase == "Running" || pod.phase == "Pending") names.push_back(pod.name);
  };
  for (const auto& [worker, pod] : state.workers) look(pod);
  if (state.launcher) look(*state.launcher);
  return names;
}

std::string describe(const KubernetesState& state) {
  if (state.phase == KubernetesState::Phase::absent) return "there is no such job";
  std::string text =
      fmt::format("{}: {} of {} workers run", to_string(state.phase), state.running, state.wanted);
  if (state.succeeded > 0) text += fmt::format(", {} done", state.succeeded);
  if (state.failed > 0) text += fmt::format(", {} failed for good", state.failed);
  if (state.ended_badly > 0) text += fmt::format(", {} pods ended badly so far", state.ended_badly);
  if (!state.reason.empty()) text += "; " + state.reason;
  return text;
}

}  // namespace ballot
