#include "launcher/kubernetes/mpi_job.h"

#include "core/error.h"
#include "launcher/kubernetes/pod_parts.h"

namespace ballot {
namespace {

using Json = nlohmann::ordered_json;

// Where the operator puts the job's keys: the home of the image's user.
constexpr const char* kSshFolder = "/home/ballot/.ssh";
constexpr std::int64_t kImageUser = 1000;  // deploy/Dockerfile makes it

// A launcher that is started again goes on from what the run has: a fixed job knows by its flag.
// What a person gave are words of their own, never of the shell's text.
std::string launcher_line() {
  return "resume=; if [ -e \"$BALLOT_OUTPUT/journal\" ] || [ -e "
         "\"$BALLOT_OUTPUT/checkpoints/latest\" "
         "]; then resume=--resume; fi; exec mpirun \"$@\" $resume";
}

Json launcher_pod(const KubernetesJob& job) {
  Json one = container(job, "launcher");
  Json words = Json::array({"tini", "--", "/bin/sh", "-c", launcher_line(), "mpirun"});
  for (const std::string& word : mpirun_arguments(job.voters * job.members, job.threads))
    words.push_back(word);
  for (const char* word : {"ballot", "train", kRunFile}) words.push_back(word);
  for (const std::string& setting : job.settings) {
    words.push_back("--set");
    words.push_back(literal_argument(setting));
  }
  one["command"] = std::move(words);
  one["env"] = Json::array({variable("BALLOT_OUTPUT", literal_argument(job.output_folder))});
  one["resources"] = {{"requests", {{"cpu", "100m"}, {"memory", "128Mi"}}},
                      {"limits", {{"cpu", "1"}, {"memory", "512Mi"}}}};
  // As in a voter's pod: asked by a signal that mpirun passes on, and given the time.
  one["lifecycle"] = shell_hook("kill -USR1 1; while :; do sleep 1; done");
  Json spec = pod_spec(job);
  spec["containers"].push_back(std::move(one));
  return spec;
}

Json worker_pod(const KubernetesJob& job) {
  Json one = container(job, "worker");
  one["command"] = Json::array({"/usr/sbin/sshd", "-De", "-f", "/home/ballot/.sshd_config"});
  if (job.metrics_port > 0) one["ports"] = container_ports(job, "", 0);
  one["resources"] = voter_resources(job);
  // mpirun's daemon stays as long as the launcher's job does.
  one["lifecycle"] = shell_hook("while grep -qs ^orted /proc/[0-9]*/comm; do sleep 1; done");
  Json spec = pod_spec(job);
  spec["volumes"].push_back({{"name", "shm"}, {"emptyDir", {{"medium", "Memory"}}}});
  one["volumeMounts"].push_back({{"name", "shm"}, {"mountPath", "/dev/shm"}});
  if (job.gpus > 0)
    spec["tolerations"] = Json::array(
        {{{"key", "nvidia.com/gpu"}, {"operator", "Exists"}, {"effect", "NoSchedule"}}});
  spec["containers"].push_back(std::move(one));
  return spec;
}

Json replica(const KubernetesJob& job, int count, Json spec, const char* component) {
  return {
      {"replicas", count},
      {"restartPolicy", "Never"},
      {"template", {{"metadata", template_metadata(job, component)}, {"spec", std::move(spec)}}}};
}

}  // namespace

std::vector<std::string> mpirun_arguments(int processes, int threads) {
  return {"--map-by",
          "slot:OVERSUBSCRIBE",
          "--bind-to",
          "none",
          "--mca",
          "mpi_yield_when_idle",
          "1",
          "--mca",
          "btl_base_warn_component_unused",
          "0",
          "-x",
          fmt::format("OMP_NUM_THREADS={}", threads),
          "-x",
          "OMP_WAIT_POLICY=passive",
          "-x",
          "BALLOT_LAUNCHER=1",
          "-n",
          fmt::format("{}", processes)};
}

KubernetesObject mpi_job(const KubernetesJob& job) {
  if (!job.tls_secret.empty() || !job.token_secret.empty())
    throw ConfigError(
        "--operator mpi: its processes reach each other over MPI and ssh; expected neither "
        "--kube-tls-secret nor --kube-token-secret");
  if (job.min_workers != job.voters)
    throw ConfigError(
        "--min-workers {}: an MPIJob has all its {} workers or none; expected no such flag, or no "
        "--operator mpi",
        job.min_workers, job.voters);
  if (job.user != kImageUser || job.group != kImageUser)
    throw ConfigError(
        "--kube-user {}:{} with --operator mpi: sshd lets in the image's own user only; expected "
        "{}:{}",
        job.user, job.group, kImageUser, kImageUser);
  KubernetesObject one{{{"apiVersion", "kubeflow.org/v2beta1"},
                        {"kind", "MPIJob"},
                        {"metadata", metadata(job, job.name, "worker")}},
                       ""};
  one.object["spec"] = {{"slotsPerWorker", job.members},
                        {"launcherCreationPolicy", "WaitForWorkersReady"},
                        {"sshAuthMountPath", kSshFolder},
                        {"mpiImplementation", "OpenMPI"},
                        {"runPolicy",
                         {{"cleanPodPolicy", "Running"},
                          {"backoffLimit", job.max_restarts},
                          {"ttlSecondsAfterFinished", job.keep_seconds}}},
                        {"mpiReplicaSpecs",
                         {{"Launcher", replica(job, 1, launcher_pod(job), "launcher")},
                          {"Worker", replica(job, job.voters, worker_pod(job), "worker")}}}};
  return one;
}

}  // namespace ballot
