#include "launcher/kubernetes/kubernetes_objects.h"

#include <cmath>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "launcher/kubernetes/kubernetes_rules.h"
#include "launcher/kubernetes/mpi_job.h"
#include "launcher/kubernetes/pod_parts.h"
#include "launcher/kubernetes/yaml_text.h"

namespace ballot {
namespace {

using Json = nlohmann::ordered_json;

// A StatefulSet's pods carry "NAME-coordinator-<10 characters>" as a label, of 63 characters at
// most.
constexpr std::size_t kLongestName = 40;
// Of a ConfigMap, with a little for the rest of the object.
constexpr std::size_t kLargestRunFile = (1 << 20) - 16'384;

Json object(const char* version, const char* kind, Json about) {
  return {{"apiVersion", version}, {"kind", kind}, {"metadata", std::move(about)}};
}

KubernetesObject run_map(const KubernetesJob& job) {
  KubernetesObject map{
      object("v1", "ConfigMap", metadata(job, run_map_name(job.name), "configuration")), ""};
  map.object["data"] = {{"run.toml", job.run_text}};
  return map;
}

KubernetesObject token_secret(const KubernetesJob& job) {
  KubernetesObject secret{
      object("v1", "Secret", metadata(job, token_secret_name(job), "configuration")), ""};
  secret.object["type"] = "Opaque";
  if (job.token.empty())
    secret.comment = fmt::format(
        "{} is generated at submission and not shown. Who applies this text by other means makes "
        "the\nsecret first: kubectl create secret generic {} --from-literal {}=...",
        kTokenKey, token_secret_name(job), kTokenKey);
  else
    secret.object["stringData"] = {{kTokenKey, job.token}};
  return secret;
}

Json coordinator_selector(const KubernetesJob& job) {
  return {{"app.kubernetes.io/instance", job.name}, {"app.kubernetes.io/component", "coordinator"}};
}

// A name for the coordinator's pod. Workers ask it before it is ready, too: it says why it waits.
KubernetesObject coordinator_service(const KubernetesJob& job) {
  KubernetesObject service{
      object("v1", "Service", metadata(job, coordinator_name(job.name), "coordinator")), ""};
  service.object["spec"] = {
      {"clusterIP", "None"},
      {"publishNotReadyAddresses", true},
      {"selector", coordinator_selector(job)},
      {"ports", Json::array({{{"name", "grpc"}, {"port", kCoordinatorPort}}})}};
  return service;
}

Json token_variable(const KubernetesJob& job) {
  return {
      {"name", kTokenKey},
      {"valueFrom", {{"secretKeyRef", {{"name", token_secret_name(job)}, {"key", kTokenKey}}}}}};
}

// The three files; who dials others also says whom they have to be.
void add_tls_arguments(const KubernetesJob& job, bool dials, Json& arguments) {
  if (job.tls_secret.empty()) return;
  for (const auto& [flag, file] : {std::pair{"--tls-ca", "ca.crt"},
                                   {"--tls-certificate", "tls.crt"},
                                   {"--tls-key", "tls.key"}})
    for (const std::string& word : {std::string(flag), fmt::format("{}/{}", kTlsFolder, file)})
      arguments.push_back(word);
  if (!dials) return;
  arguments.push_back("--tls-name");
  arguments.push_back(job.tls_name);
}

// kubelet's gRPC probe speaks no TLS. With TLS the port is tried, and `ballot status` asks as a
// worker would: readiness decides nothing here but what people see.
void add_probes(const KubernetesJob& job, Json& container) {
  if (job.tls_secret.empty()) {
    const Json grpc = {{"port", kCoordinatorPort}};
    container["startupProbe"] = {{"grpc", grpc}, {"periodSeconds", 2}, {"failureThreshold", 60}};
    container["readinessProbe"] = {{"grpc", grpc}, {"periodSeconds", 5}, {"timeoutSeconds", 3}};
    // Two minutes: a busy node is no reason to begin anew.
    container["livenessProbe"] = {
        {"grpc", grpc}, {"periodSeconds", 20}, {"timeoutSeconds", 5}, {"failureThreshold", 6}};
    return;
  }
  const Json port = {{"port", kCoordinatorPort}};
  Json status = Json::array(
      {"ballot", "status", fmt::format("127.0.0.1:{}", kCoordinatorPort), "--timeout", "5s"});
  add_tls_arguments(job, true, status);
  container["startupProbe"] = {{"tcpSocket", port}, {"periodSeconds", 2}, {"failureThreshold", 60}};
  container["readinessProbe"] = {
      {"exec", {{"command", status}}}, {"periodSeconds", 30}, {"timeoutSeconds", 10}};
  container["livenessProbe"] = {
      {"tcpSocket", port}, {"periodSeconds", 20}, {"timeoutSeconds", 5}, {"failureThreshold", 6}};
}

KubernetesObject coordinator(const KubernetesJob& job) {
  Json one = container(job, "coordinator");
  // 0.0.0.0: `kubectl port-forward` comes from inside the pod.
  Json arguments = Json::array({"coordinator", literal_argument(job.output_folder), "--listen",
                                fmt::format("0.0.0.0:{}", kCoordinatorPort), "--start-workers",
                                fmt::format("{}", job.voters), "--min-workers",
                                fmt::format("{}", job.min_workers)});
  if (job.metrics_port > 0)
    for (const std::string& word :
         {std::string("--prometheus"), fmt::format("0.0.0.0:{}", job.metrics_port)})
      arguments.push_back(word);
  add_tls_arguments(job, false, arguments);
  one["args"] = std::move(arguments);
  one["env"] = Json::array({token_variable(job)});
  one["ports"] = container_ports(job, "grpc", kCoordinatorPort);
  one["resources"] = {{"requests", {{"cpu", "100m"}, {"memory", "128Mi"}}},
                      {"limits", {{"cpu", "1"}, {"memory", "1Gi"}}}};
  add_probes(job, one);

  Json spec = pod_spec(job);
  // Longer than the workers have: who leaves in order needs it.
  spec["terminationGracePeriodSeconds"] = 30;
  add_tls(job, spec, one);
  spec["containers"].push_back(std::move(one));

  KubernetesObject set{
      object("apps/v1", "StatefulSet", metadata(job, coordinator_name(job.name), "coordinator")),
      ""};
  set.object["spec"] = {
      {"serviceName", coordinator_name(job.name)},
      {"replicas", 1},
      {"selector", {{"matchLabels", coordinator_selector(job)}}},
      {"template", {{"metadata", template_metadata(job, "coordinator")}, {"spec", spec}}}};
  return set;
}

// The README's exit codes, told to the Job controller: 4 and 128 + n are started again.
Json failure_policy() {
  const auto on_codes = [](const char* action, const std::vector<int>& codes) -> Json {
    return {{"action", action},
            {"onExitCodes", {{"containerName", "worker"}, {"operator", "In"}, {"values", codes}}}};
  };
  return {{"rules", Json::array({on_codes("FailJob", {1, 2, 3}),
                                 on_codes("FailIndex", {5}),
                                 {{"action", "Ignore"},
                                  {"onPodConditions", Json::array({{{"type", "DisruptionTarget"},
                                                                    {"status", "True"}}})}},
                                 {{"action", "Count"},
                                  {"onExitCodes",
                                   {{"containerName", "worker"},
                                    {"operator", "NotIn"},
                                    {"values", Json::array({0, 1, 2, 3, 5})}}}}})}};
}

Json train_arguments(const KubernetesJob& job) {
  Json arguments =
      Json::array({"train", kRunFile, "--coordinator",
                   fmt::format("{}:{}", coordinator_name(job.name), kCoordinatorPort), "--worker",
                   "$(JOB_COMPLETION_INDEX)", "--listen", fmt::format("$(POD_IP):{}", kPeerPort)});
  for (const std::string& setting : job.settings) {
    arguments.push_back("--set");
    arguments.push_back(literal_argument(setting));
  }
  add_tls_arguments(job, true, arguments);
  return arguments;
}

// A voter's members meet over MPI inside their pod. mpirun passes SIGUSR1 on, and answers SIGTERM
// by ending them within a second: so the hook asks first, and ends with the container.
void run_members(const KubernetesJob& job, Json& spec, Json& one) {
  Json words = Json::array({"tini", "--", "mpirun"});
  for (const std::string& word : mpirun_arguments(job.members, job.threads)) words.push_back(word);
  words.push_back("ballot");
  for (const Json& word : one["args"]) words.push_back(word);
  one["command"] = std::move(words);
  one.erase("args");
  one["lifecycle"] = shell_hook("kill -USR1 1; while :; do sleep 1; done");
  // Open MPI's shared memory; a container's own /dev/shm has 64 MiB.
  spec["volumes"].push_back({{"name", "shm"}, {"emptyDir", {{"medium", "Memory"}}}});
  one["volumeMounts"].push_back({{"name", "shm"}, {"mountPath", "/dev/shm"}});
}

KubernetesObject workers(const KubernetesJob& job) {
  Json one = container(job, "worker");
  one["args"] = train_arguments(job);
  one["env"] = Json::array(
      {token_variable(job),
       {{"name", "POD_IP"}, {"valueFrom", {{"fieldRef", {{"fieldPath", "status.podIP"}}}}}},
       variable("OMP_NUM_THREADS", fmt::format("{}", job.threads)),
       variable("OMP_WAIT_POLICY", "passive"),
       variable("HOME", "/tmp")});
  one["ports"] = container_ports(job, "peers", kPeerPort);
  one["resources"] = voter_resources(job);

  Json spec = {{"restartPolicy", "Never"}};
  spec.update(pod_spec(job));
  add_tls(job, spec, one);
  if (job.members > 1) run_members(job, spec, one);
  if (job.gpus > 0)
    spec["tolerations"] = Json::array(
        {{{"key", "nvidia.com/gpu"}, {"operator", "Exists"}, {"effect", "NoSchedule"}}});
  spec["containers"].push_back(std::move(one));

  KubernetesObject workers{object("batch/v1", "Job", metadata(job, job.name, "worker")), ""};
  workers.object["spec"] = {
      {"completionMode", "Indexed"},
      {"completions", job.voters},
      {"parallelism", job.voters},
      {"backoffLimitPerIndex", job.max_restarts},
      // With more gone for good the others would wait for ever.
      {"maxFailedIndexes", job.voters - job.min_workers},
      {"podFailurePolicy", failure_policy()},
      // Never two processes with one number: a pod that is going has to be gone.
      {"podReplacementPolicy", "Failed"},
      {"ttlSecondsAfterFinished", job.keep_seconds},
      {"template", {{"metadata", template_metadata(job, "worker")}, {"spec", std::move(spec)}}}};
  return workers;
}

void check_labels(const KubernetesJob& job) {
  for (const auto& [key, value] : job.labels) {
    require_label_key("--kube-label", key);
    require_label_value("--kube-label " + key, value);
    if (key.starts_with("app.kubernetes.io/") || key.starts_with("batch.kubernetes.io/") ||
        key.starts_with("training.kubeflow.org/") || key == "job-name" || key == "controller-uid")
      throw ConfigError(
          "--kube-label {}={}: this label says whose pod it is and is not yours to set; expected "
          "another key",
          key, value);
  }
  for (const auto& [key, value] : job.node_selector) {
    require_label_key("--kube-node-selector", key);
    require_label_value("--kube-node-selector " + key, value);
  }
}

void check_amounts(const KubernetesJob& job) {
  constexpr double kLeastMemory = 64.0 * (1 << 20);
  const double cpus = parse_quantity("--kube-cpus", job.cpus);
  if (cpus < 0.1)
    throw ConfigError("--kube-cpus \"{}\": is {:g} cores; expected 100m or more", job.cpus, cpus);
  if (const double memory = parse_quantity("--kube-memory", job.memory); memory < kLeastMemory)
    throw ConfigError("--kube-memory \"{}\": is {:g} bytes; expected 64Mi or more, such as 8Gi",
                      job.memory, memory);
  const double processes = static_cast<double>(job.threads) * job.members;
  if (processes > std::ceil(cpus))
    throw ConfigError(
        "--kube-cpus \"{}\": {:g} cores for {} threads in each of {} processes of a pod; expected "
        "a core for each (train.threads, vote.members)",
        job.cpus, cpus, job.threads, job.members);
  if (job.gpus < 0 || job.gpus > 64)
    throw ConfigError("--kube-gpus {}: expected 0 to 64", job.gpus);
  if (job.voters < 1 || job.voters > 1024 || job.members < 1)
    throw ConfigError("--workers {}: expected 1 to 1024", job.voters * job.members);
  if (job.min_workers < 1 || job.min_workers > job.voters)
    throw ConfigError("--min-workers {}: expected 1 to {}, the voters", job.min_workers,
                      job.voters);
  if (job.max_restarts < 0)
    throw ConfigError("--max-restarts {}: expected 0 or more", job.max_restarts);
  if (job.user < 1 || job.group < 1)
    throw ConfigError("--kube-user {}:{}: expected numbers above 0: pods do not run as root",
                      job.user, job.group);
  if (job.grace_seconds < 1 || job.keep_seconds < 0)
    throw ConfigError("--kube-grace {} s, --kube-keep {} s: expected at least 1 s and 0 s",
                      job.grace_seconds, job.keep_seconds);
}

}  // namespace

std::string run_map_name(const std::string& job) {
  return job + "-run";
}
std::string coordinator_name(const std::string& job) {
  return job + "-coordinator";
}
std::string token_secret_name(const KubernetesJob& job) {
  return job.token_secret.empty() ? job.name + "-token" : job.token_secret;
}
std::string job_selector(const std::string& job) {
  return "app.kubernetes.io/instance=" + job;
}

void check_kubernetes_job(const KubernetesJob& job) {
  require_dns_label("--name", job.name, kLongestName);
  if (!job.name_space.empty()) require_dns_label("--namespace", job.name_space);
  require_image("--kube-image", job.image);
  require_dns_subdomain("--kube-claim", job.claim);
  for (const auto& [flag, value] : {std::pair{"--kube-pull-secret", &job.pull_secret},
                                    {"--kube-service-account", &job.service_account},
                                    {"--kube-token-secret", &job.token_secret},
                                    {"--kube-tls-secret", &job.tls_secret}})
    if (!value->empty()) require_dns_subdomain(flag, *value);
  if (!job.tls_secret.empty()) require_dns_subdomain("--kube-tls-name", job.tls_name);
  if (!job.pull_policy.empty() && job.pull_policy != "Always" && job.pull_policy != "Never" &&
      job.pull_policy != "IfNotPresent")
    throw ConfigError("--kube-pull-policy \"{}\": expected Always, IfNotPresent or Never",
                      job.pull_policy);
  if (job.mount_path.size() < 2 || job.mount_path[0] != '/' || job.mount_path.back() == '/' ||
      job.mount_path.find(':') != std::string::npos)
    throw ConfigError("--kube-mount \"{}\": expected an absolute path without ':', such as /data",
                      job.mount_path);
  for (const char* taken : {"/tmp", "/ballot/run", kTlsFolder, "/dev", "/proc", "/sys", "/usr"})
    if (job.mount_path == taken || job.mount_path.starts_with(std::string(taken) + "/") ||
        std::string_view(taken).starts_with(job.mount_path + "/"))
      throw ConfigError("--kube-mount \"{}\": the pods have something else at {}", job.mount_path,
                        taken);
  if (job.run_text.size() > kLargestRunFile)
    throw ConfigError("the run file has {} bytes; a ConfigMap takes {}", job.run_text.size(),
                      kLargestRunFile);
  check_labels(job);
  check_amounts(job);
}

std::vector<KubernetesObject> kubernetes_objects(const KubernetesJob& job) {
  check_kubernetes_job(job);
  if (job.controller == KubernetesOperator::mpi) return {run_map(job), mpi_job(job)};
  std::vector<KubernetesObject> objects{run_map(job)};
  if (job.token_secret.empty()) objects.push_back(token_secret(job));
  objects.push_back(coordinator_service(job));
  objects.push_back(coordinator(job));
  objects.push_back(workers(job));
  return objects;
}

std::string yaml_documents(const std::vector<KubernetesObject>& objects) {
  std::string text;
  for (const KubernetesObject& one : objects) {
    text += "---\n";
    std::istringstream comment(one.comment);
    for (std::string line; std::getline(comment, line);) text += "# " + line + "\n";
    text += to_yaml(one.object);
  }
  return text;
}

}  // namespace ballot
