#include "launcher/kubernetes/pod_parts.h"

#include <fmt/format.h>

#include "launcher/kubernetes/kubernetes_objects.h"

namespace ballot {

using Json = nlohmann::ordered_json;

std::string literal_argument(const std::string& text) {
  std::string literal;
  for (const char c : text) literal += c == '$' ? "$$" : std::string(1, c);
  return literal;
}

Json metadata(const KubernetesJob& job, const std::string& name, const std::string& component) {
  Json labels = {{"app.kubernetes.io/name", "ballot"},
                 {"app.kubernetes.io/instance", job.name},
                 {"app.kubernetes.io/component", component},
                 {"app.kubernetes.io/managed-by", "ballot"}};
  for (const auto& [key, value] : job.labels) labels[key] = value;
  Json data = {{"name", name}};
  if (!job.name_space.empty()) data["namespace"] = job.name_space;
  data["labels"] = std::move(labels);
  if (!job.owner_uid.empty() && name != job.name)
    data["ownerReferences"] = Json::array({{{"apiVersion", "batch/v1"},
                                            {"kind", "Job"},
                                            {"name", job.name},
                                            {"uid", job.owner_uid}}});
  return data;
}

Json template_metadata(const KubernetesJob& job, const std::string& component) {
  const Json about = metadata(job, "", component);
  Json data = {{"labels", about["labels"]}};
  if (job.metrics_port > 0 && component != "launcher")
    data["annotations"] = {{"prometheus.io/scrape", "true"},
                           {"prometheus.io/port", fmt::format("{}", job.metrics_port)},
                           {"prometheus.io/path", "/metrics"}};
  return data;
}

Json container_ports(const KubernetesJob& job, const std::string& name, int port) {
  Json ports = Json::array();
  if (port > 0) ports.push_back({{"name", name}, {"containerPort", port}});
  if (job.metrics_port > 0)
    ports.push_back({{"name", "metrics"}, {"containerPort", job.metrics_port}});
  return ports;
}

Json variable(const std::string& name, const std::string& value) {
  return {{"name", name}, {"value", value}};
}

Json pod_spec(const KubernetesJob& job) {
  Json spec = {{"terminationGracePeriodSeconds", job.grace_seconds}};
  if (!job.service_account.empty()) spec["serviceAccountName"] = job.service_account;
  spec["automountServiceAccountToken"] = false;
  spec["enableServiceLinks"] = false;
  if (!job.pull_secret.empty())
    spec["imagePullSecrets"] = Json::array({{{"name", job.pull_secret}}});
  if (!job.node_selector.empty()) spec["nodeSelector"] = job.node_selector;
  spec["securityContext"] = {{"runAsNonRoot", true},
                             {"runAsUser", job.user},
                             {"runAsGroup", job.group},
                             {"fsGroup", job.group},
                             {"fsGroupChangePolicy", "OnRootMismatch"},
                             {"seccompProfile", {{"type", "RuntimeDefault"}}}};
  spec["containers"] = Json::array();  // before the volumes, where people look for them
  spec["volumes"] =
      Json::array({{{"name", "run"}, {"configMap", {{"name", run_map_name(job.name)}}}},
                   {{"name", "data"}, {"persistentVolumeClaim", {{"claimName", job.claim}}}},
                   {{"name", "tmp"}, {"emptyDir", Json::object()}}});
  return spec;
}

void add_tls(const KubernetesJob& job, Json& spec, Json& container) {
  if (job.tls_secret.empty()) return;
  // 0440: the processes read it by their group, which fsGroup gives the files.
  spec["volumes"].push_back(
      {{"name", "tls"}, {"secret", {{"secretName", job.tls_secret}, {"defaultMode", 0440}}}});
  container["volumeMounts"].push_back(
      {{"name", "tls"}, {"mountPath", kTlsFolder}, {"readOnly", true}});
}

Json container(const KubernetesJob& job, const std::string& name) {
  Json one = {{"name", name}, {"image", job.image}};
  if (!job.pull_policy.empty()) one["imagePullPolicy"] = job.pull_policy;
  one["workingDir"] = job.mount_path;  // relative paths of the run file are inside the volume
  one["securityContext"] = {{"allowPrivilegeEscalation", false},
                            {"readOnlyRootFilesystem", true},
                            {"capabilities", {{"drop", Json::array({"ALL"})}}}};
  one["volumeMounts"] =
      Json::array({{{"name", "run"}, {"mountPath", "/ballot/run"}, {"readOnly", true}},
                   {{"name", "data"}, {"mountPath", job.mount_path}},
                   {{"name", "tmp"}, {"mountPath", "/tmp"}}});
  return one;
}

Json voter_resources(const KubernetesJob& job) {
  Json amounts = {{"cpu", job.cpus}, {"memory", job.memory}};
  // Requests equal to limits: a worker that is starved holds up all others.
  Json resources = {{"requests", amounts}, {"limits", amounts}};
  if (job.gpus > 0) resources["limits"]["nvidia.com/gpu"] = fmt::format("{}", job.gpus);
  return resources;
}

Json shell_hook(const std::string& line) {
  return {{"preStop", {{"exec", {{"command", Json::array({"/bin/sh", "-c", line})}}}}}};
}

}  // namespace ballot
