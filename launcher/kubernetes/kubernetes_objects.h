// The objects of a job on Kubernetes, rendered.
//
// Without an operator, needs Kubernetes 1.29: a ConfigMap with the run file, a Secret with the
// job's secret, a headless Service and a StatefulSet of one for the coordinator, an indexed Job of
// the workers. A worker's number is its index in the Job, so that a pod made anew goes on where its
// journal ends. With the mpi operator: the ConfigMap and an MPIJob.
//
// Pods meet the "restricted" Pod Security Standard; those of an MPIJob need an image with sshd.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launcher/kubernetes/kubernetes_job.h"

namespace ballot {

struct KubernetesObject {
  nlohmann::ordered_json object;
  std::string comment;  // lines before it, for people
};

// Names of what belongs to a job; they are also what is asked for later.
std::string run_map_name(const std::string& job);
std::string coordinator_name(const std::string& job);
std::string token_secret_name(const KubernetesJob& job);
// "app.kubernetes.io/instance=JOB": all of a job's objects and pods.
std::string job_selector(const std::string& job);

inline constexpr int kCoordinatorPort = 29500, kPeerPort = 29501;
inline constexpr const char* kRunFile = "/ballot/run/run.toml";
inline constexpr const char* kTlsFolder = "/ballot/tls";
inline constexpr const char* kTokenKey = "BALLOT_TOKEN";

// ConfigError for a name, label, quantity or number that the cluster would refuse, or that
// contradicts another.
void check_kubernetes_job(const KubernetesJob& job);

// In the order in which they are to be applied. Checks the job first.
std::vector<KubernetesObject> kubernetes_objects(const KubernetesJob& job);

// As `kubectl apply -f -` takes them.
std::string yaml_documents(const std::vector<KubernetesObject>& objects);

}  // namespace ballot
