// What the pods of a job have in common: how they are secured, what they mount, what they are told.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launcher/kubernetes/kubernetes_job.h"

namespace ballot {

// The cluster replaces $(NAME) in arguments; what a person gave means what it says.
std::string literal_argument(const std::string& text);

// metadata of an object: the job's own labels and those that all its objects have.
nlohmann::ordered_json metadata(const KubernetesJob& job, const std::string& name,
                                const std::string& component);

// metadata of a pod's template: labels and, where its process answers Prometheus, the annotations
// by which scrapers of a cluster customarily find it.
nlohmann::ordered_json template_metadata(const KubernetesJob& job, const std::string& component);
// A container's ports: that one (0: none) and, where the run answers Prometheus, the one for that.
nlohmann::ordered_json container_ports(const KubernetesJob& job, const std::string& name, int port);

nlohmann::ordered_json variable(const std::string& name, const std::string& value);

// A pod's spec with everything but its containers, its restartPolicy and what only one kind has.
nlohmann::ordered_json pod_spec(const KubernetesJob& job);
// Volumes, mounts and arguments of TLS where there is some.
void add_tls(const KubernetesJob& job, nlohmann::ordered_json& spec,
             nlohmann::ordered_json& container);

// A container with image, security and mounts; `writable_root` for an sshd that needs it.
nlohmann::ordered_json container(const KubernetesJob& job, const std::string& name);
// CPUs, memory and GPUs of a voter.
nlohmann::ordered_json voter_resources(const KubernetesJob& job);

// A shell line as a container's hook.
nlohmann::ordered_json shell_hook(const std::string& line);

}  // namespace ballot
