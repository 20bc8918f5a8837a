// A job on Kubernetes as plain values: what is asked for, before anything is rendered or submitted.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace ballot {

// Who brings the processes together.
enum class KubernetesOperator {
  none,  // elastic: an indexed Job of workers and a coordinator beside it
  mpi,   // fixed, over MPI: an MPIJob (v2beta1) of Kubeflow's operator
};

struct KubernetesJob {
  std::string name;        // of the Job; its other objects are NAME-run, NAME-coordinator, ...
  std::string name_space;  // empty: that of kubectl's context
  KubernetesOperator controller = KubernetesOperator::none;

  std::string image, pull_policy;  // an empty policy: the cluster's default
  std::string pull_secret;         // empty: none

  int voters = 1;
  int members = 1;       // processes of a voter; they share a pod
  int min_workers = 1;   // voters; with fewer the run waits
  int max_restarts = 0;  // of each voter; of an MPIJob: of the whole job

  std::string run_text;               // the run file
  std::vector<std::string> settings;  // key=value of --set
  std::string output_folder;          // of the run, inside the pod

  std::string claim, mount_path;  // a ReadWriteMany volume with model, data and run folder

  std::string cpus, memory;  // Kubernetes quantities, of a voter's pod: requests and limits
  int gpus = 0;              // of a voter's pod
  int threads = 1;           // of a process

  std::string service_account;  // empty: the namespace's default
  std::map<std::string, std::string> node_selector, labels;

  int metrics_port = 0;  // where every process answers Prometheus; 0: none does

  // The job's secret: one of its own with this value, or an existing one with the key
  // BALLOT_TOKEN. Neither: it is rendered without the value, as a dry run shows it.
  std::string token, token_secret;
  std::string tls_secret;  // with ca.crt, tls.crt, tls.key; empty: no TLS
  std::string tls_name;    // whom the certificates are for

  std::int64_t user = 1000, group = 1000;  // of the processes; the volume has to let them write
  int grace_seconds = 300;    // from SIGTERM to SIGKILL: a step, its checkpoint, leaving
  int keep_seconds = 86'400;  // the ended job and its logs

  // Of the submitted Job, once it is there: what it owns goes with it. Empty: nothing is owned.
  std::string owner_uid;
};

}  // namespace ballot
