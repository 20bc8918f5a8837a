// `ballot launch RUN.toml --on kubernetes`: from flags and a run file to a job in the cluster.
//
// The job is elastic: voters over gRPC with a coordinator beside them, or with --operator mpi fixed
// and over MPI. Paths of the run file are those inside the pods: absolute ones lie on the volume,
// relative ones are relative to where it is mounted.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launcher/kubernetes/kubectl.h"
#include "launcher/kubernetes/kubernetes_job.h"
#include "runtime/run_config.h"

namespace CLI {
class App;
}

namespace ballot {

struct KubernetesFlags {
  std::string controller;  // --operator: "" or "mpi"
  std::string name;        // of the job: --name of launch; empty: after output.folder
  std::string image, name_space, context, kubeconfig;
  std::string claim, mount_path = "/ballot/data";
  std::string cpus = "4", memory = "8Gi", grace = "300s", keep = "86400s", user = "1000:1000";
  int gpus = 0;
  std::string service_account, pull_policy, pull_secret, token_secret, tls_secret, tls_name;
  std::vector<std::string> node_selector, labels;  // KEY=VALUE
  std::string log_folder;                          // of an attached launch; empty: NAME-logs

  bool operator==(const KubernetesFlags&) const = default;
};

// All begin with --kube-, but --operator.
void add_kubernetes_flags(CLI::App& command, KubernetesFlags& flags);

KubernetesOperator controller_of(const KubernetesFlags& flags);
KubectlOptions kubectl_options(const KubernetesFlags& flags);

// Everything checked that needs no cluster; `token` stays empty. ConfigError for what contradicts
// itself. min_workers: voters; 0: not given.
KubernetesJob make_kubernetes_job(const RunConfig& config, const std::string& run_file,
                                  const std::vector<std::string>& settings, int workers,
                                  int min_workers, int max_restarts, const KubernetesFlags& flags);

// dry_run: prints what would be submitted, and nothing else. attach: stays until the job has ended,
// with its logs in the terminal and in log_folder; SIGINT and SIGTERM make its workers leave in
// order; a second one leaves them to it. The exit code is the job's then (README), 0 for one that
// was submitted. `submitted` is called once the cluster has it. From the main thread, before others
// are started.
int launch_on_kubernetes(const RunConfig& config, const std::string& run_file,
                         const std::vector<std::string>& settings, int workers, int min_workers,
                         int max_restarts, bool dry_run, bool attach, const KubernetesFlags& flags,
                         const std::function<void(const KubernetesJob&)>& submitted = {});

// Of an attached launch, and where the job's record lies: --kube-logs, or NAME-logs.
std::string kubernetes_log_folder(const std::string& job, const KubernetesFlags& flags);

}  // namespace ballot
