// Jobs on Kubernetes that differ in what they ask for, each with a golden file of its name.
#pragma once

#include <map>
#include <string>

#include "launcher/kubernetes/kubernetes_job.h"

namespace ballot {

inline KubernetesJob plain_job() {
  KubernetesJob job;
  job.name = "first";
  job.image = "registry.example.com/ballot:0.1.0";
  job.voters = 4;
  job.run_text =
      "[model]\nfolder = \"llama\"\n[data]\ntrain = \"train.jsonl\"\n[train]\nsteps = 150\n"
      "[output]\nfolder = \"runs/first\"\n";
  job.output_folder = "runs/first";
  job.claim = "training";
  job.mount_path = "/ballot/data";
  job.cpus = "4";
  job.memory = "8Gi";
  job.threads = 4;
  return job;
}

inline std::map<std::string, KubernetesJob> kubernetes_samples() {
  std::map<std::string, KubernetesJob> samples;
  samples["plain"] = plain_job();

  KubernetesJob& gpu = samples["gpu-tls"] = plain_job();
  gpu.name_space = "training";
  gpu.gpus = 1;
  gpu.pull_policy = "IfNotPresent";
  gpu.pull_secret = "registry";
  gpu.min_workers = 2;
  gpu.max_restarts = 10;
  gpu.settings = {"train.steps=1e3", "output.folder=runs/$(HOME)"};
  gpu.output_folder = "runs/$(HOME)";
  gpu.service_account = "trainer";
  gpu.node_selector = {{"accelerator", "on"}, {"kubernetes.io/arch", "amd64"}};
  gpu.labels = {{"team", "0x10"}, {"example.com/cost-centre", "1e3"}};
  gpu.metrics_port = 9400;
  gpu.token_secret = "shared.token";
  gpu.tls_secret = "first-tls";
  gpu.tls_name = "first-coordinator";

  KubernetesJob& members = samples["members"] = plain_job();
  members.voters = 2;
  members.members = 4;
  members.threads = 1;
  members.token = "a-secret-of-this-test";
  members.owner_uid = "6d6b9f0a-0d7e-4f0c-8f57-2c4f7b8f6a11";

  KubernetesJob& mpi = samples["mpi"] = plain_job();
  mpi.controller = KubernetesOperator::mpi;
  mpi.min_workers = mpi.voters;
  mpi.max_restarts = 3;
  mpi.metrics_port = 9400;
  mpi.settings = {"train.steps=10"};
  return samples;
}

}  // namespace ballot
