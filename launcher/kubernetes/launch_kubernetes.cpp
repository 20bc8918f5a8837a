#include "launcher/kubernetes/launch_kubernetes.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "collectives/transport/network_address.h"
#include "core/error.h"
#include "core/log.h"
#include "launcher/kubernetes/follow_kubernetes.h"
#include "launcher/kubernetes/kubernetes_objects.h"
#include "launcher/kubernetes/kubernetes_rules.h"
#include "launcher/units.h"

namespace ballot {
namespace {

int read_seconds(const std::string& flag, const std::string& text) {
  const double value = parse_duration(flag, text);
  if (value < 0 || value > 1e8) throw ConfigError("{} {}: expected 0 to 100000000s", flag, text);
  return static_cast<int>(std::ceil(value));
}

std::map<std::string, std::string> read_pairs(const std::string& flag,
                                              const std::vector<std::string>& texts) {
  std::map<std::string, std::string> pairs;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      throw ConfigError("{} {}: expected KEY=VALUE", flag, text);
    const std::string key = text.substr(0, equals);
    if (!pairs.emplace(key, text.substr(equals + 1)).second)
      throw ConfigError("{} {}: the key {} is given twice", flag, text, key);
  }
  return pairs;
}

// "1000" or "1000:2000".
void read_user(const std::string& text, KubernetesJob& job) {
  const std::size_t colon = std::min(text.find(':'), text.size());
  const auto number = [&](std::string_view part) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (part.empty() || error != std::errc() || end != part.data() + part.size() || value < 1 ||
        value > 2'147'483'647)
      throw ConfigError("--kube-user {}: expected UID or UID:GID, numbers above 0", text);
    return value;
  };
  job.user = number(std::string_view(text).substr(0, colon));
  job.group = colon == text.size() ? job.user : number(std::string_view(text).substr(colon + 1));
}

std::string read_run_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw ConfigError("cannot read the run file {}", path);
  std::stringstream text;
  text << file.rdbuf();
  std::string all = text.str();
  if (!all.empty() && all.back() != '\n') all += '\n';
  return all;
}

// Inside the volume, as a pod sees it.
void require_on_volume(const std::string& key, const std::string& path, const KubernetesJob& job) {
  const std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  const std::string text = normal.string();
  const bool inside = normal.is_absolute() ? text.starts_with(job.mount_path + "/")
                                           : text != ".." && !text.starts_with("../");
  if (!inside)
    throw ConfigError(
        "{} = \"{}\": the pods have the volume {} at {} (--kube-mount), and nothing else of yours; "
        "expected a path below it, or one relative to it",
        key, path, job.claim, job.mount_path);
}

void check_paths(const RunConfig& config, const KubernetesJob& job) {
  require_on_volume("model.folder", config.model_folder, job);
  require_on_volume("data.train", config.train_data.path, job);
  if (!config.validation_data.path.empty())
    require_on_volume("data.validation", config.validation_data.path, job);
  require_on_volume("output.folder", config.output_folder, job);
  const std::string output = std::filesystem::path(config.output_folder).lexically_normal();
  if (output == "." || output == job.mount_path + "/")
    throw ConfigError(
        "output.folder = \"{}\": is the volume itself; expected a folder of this run's own in it",
        config.output_folder);
}

// What the workers would end with when all of them have been scheduled, pulled and started.
void check_run(const RunConfig& config, const KubernetesJob& job) {
  if (config.device == "cuda" && job.gpus == 0)
    throw ConfigError(
        "train.device = \"cuda\": the pods have no GPU; expected --kube-gpus 1, or another device");
  if (config.device == "cpu" && job.gpus > 0)
    throw ConfigError("--kube-gpus {}: train.device = \"cpu\" would leave them idle; expected 0",
                      job.gpus);
  if (job.gpus > 0 && job.members > 1)
    throw ConfigError(
        "--kube-gpus {} with vote.members = {}: members of a voter work on CPUs only; expected 0",
        job.gpus, job.members);
  if (job.gpus > 1)
    throw ConfigError("--kube-gpus {}: a pod has one worker, and a worker one GPU; expected 0 or 1",
                      job.gpus);
  if (job.controller == KubernetesOperator::mpi) return;
  if (config.vote_schedule && *config.vote_schedule != Schedule::sharded)
    throw ConfigError(
        "vote.schedule: on Kubernetes a job is elastic and votes by \"sharded\"; expected that, "
        "none, or --operator mpi");
  if (config.estimator != Estimator::majority)
    throw ConfigError(
        "vote.estimator: on Kubernetes a job is elastic and takes the majority only; expected "
        "\"majority\", or --operator mpi");
  if (config.average_momentum_every > 0 || config.keep_best || config.early_stop_evaluations > 0)
    throw ConfigError(
        "vote.average_momentum_every, train.keep_best, train.early_stop_evaluations: on Kubernetes "
        "a job is elastic and has none of them; expected 0 and false, or --operator mpi");
}

// Scrapers come from other pods, and find a port that is declared.
int metrics_port(const RunConfig& config) {
  if (config.prometheus.empty()) return 0;
  const HostPort where = parse_listen(config.prometheus, "output.prometheus =");
  if (where.host != "0.0.0.0" || where.port == 0)
    throw ConfigError(
        "output.prometheus = \"{}\": on Kubernetes pods are asked from outside; expected "
        "\"0.0.0.0:PORT\", such as \"0.0.0.0:9400\"",
        config.prometheus);
  if (where.port == kCoordinatorPort || where.port == kPeerPort)
    throw ConfigError(
        "output.prometheus = \"{}\": {} and {} are the job's own ports; expected "
        "another",
        config.prometheus, kCoordinatorPort, kPeerPort);
  if (config.members > 1)
    throw ConfigError(
        "output.prometheus = \"{}\" with vote.members = {}: the members of a voter share a pod and "
        "cannot share its port; expected none",
        config.prometheus, config.members);
  return where.port;
}

// runs/First_try -> first-try.
std::string name_after(const std::string& output_folder) {
  std::filesystem::path folder = std::filesystem::path(output_folder).lexically_normal();
  if (folder.filename().empty()) folder = folder.parent_path();
  std::string name;
  for (const char c : folder.filename().string()) {
    const bool upper = c >= 'A' && c <= 'Z';
    const bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || upper;
    if (word)
      name += upper ? static_cast<char>(c - 'A' + 'a') : c;
    else if (!name.empty() && name.back() != '-')
      name += '-';
  }
  while (!name.empty() && name.back() == '-') name.pop_back();
  if (!name.empty() && name[0] >= '0' && name[0] <= '9') name = "run-" + name;
  return name;
}

std::string new_token() {
  std::random_device random;
  std::string token;
  for (int word = 0; word < 8; ++word) token += fmt::format("{:08x}", random());
  return token;
}

// An ended job of this name makes room; another one does not.
void make_room(const Kubectl& kubectl, const KubernetesJob& job) {
  const KubernetesState state = kubectl.state(job.name, job.controller);
  if (state.phase == KubernetesState::Phase::absent) return;
  if (!state.over())
    throw ConfigError(
        "--name {}: there is a job of this name ({}); stop it first, or choose another name",
        job.name, describe(state));
  log_info("job {} has ended before ({}); its objects make room", job.name, to_string(state.phase));
  kubectl.stop(job.name, job.controller, std::chrono::seconds(30));
}

// What belongs to the Job goes with it when the cluster forgets it.
void give_to_job(const Kubectl& kubectl, KubernetesJob job) {
  try {
    job.owner_uid = kubectl.state(job.name, job.controller).uid;
    std::vector<KubernetesObject> owned = kubernetes_objects(job);
    std::erase_if(owned, [&](const KubernetesObject& one) {
      return one.object["metadata"]["name"] == job.name;
    });
    if (!job.owner_uid.empty()) kubectl.apply(yaml_documents(owned));
  } catch (const WorldError& error) {
    log_warning("job {} is submitted, but its other objects stay when it is forgotten: {}",
                job.name, error.what());
  }
}

}  // namespace

KubernetesOperator controller_of(const KubernetesFlags& flags) {
  if (flags.controller.empty()) return KubernetesOperator::none;
  if (flags.controller == "mpi") return KubernetesOperator::mpi;
  throw ConfigError("--operator {}: expected mpi", flags.controller);
}

KubectlOptions kubectl_options(const KubernetesFlags& flags) {
  KubectlOptions options;
  options.context = flags.context;
  options.name_space = flags.name_space;
  options.kubeconfig = flags.kubeconfig;
  return options;
}

KubernetesJob make_kubernetes_job(const RunConfig& config, const std::string& run_file,
                                  const std::vector<std::string>& settings, int workers,
                                  int min_workers, int max_restarts, const KubernetesFlags& flags) {
  KubernetesJob job;
  job.controller = controller_of(flags);
  job.members = static_cast<int>(config.members);
  if (workers < 1 || workers % job.members != 0)
    throw ConfigError("vote.members = {}: {} workers cannot be cut into voters of {}", job.members,
                      workers, job.members);
  job.voters = workers / job.members;
  job.min_workers = min_workers > 0                             ? min_workers
                    : job.controller == KubernetesOperator::mpi ? job.voters
                                                                : 1;
  job.max_restarts = max_restarts;
  if (flags.image.empty())
    throw ConfigError(
        "--kube-image: is missing; expected the image that the pods run (deploy/Dockerfile makes "
        "one)");
  if (flags.claim.empty())
    throw ConfigError(
        "--kube-claim: is missing; expected the name of a PersistentVolumeClaim that all pods can "
        "write (ReadWriteMany), with model and data");
  job.name = flags.name.empty() ? name_after(config.output_folder) : flags.name;
  job.name_space = flags.name_space;
  job.image = flags.image;
  job.pull_policy = flags.pull_policy;
  job.pull_secret = flags.pull_secret;
  job.run_text = read_run_file(run_file);
  job.settings = settings;
  job.output_folder = config.output_folder;
  job.claim = flags.claim;
  job.mount_path = flags.mount_path;
  job.cpus = flags.cpus;
  job.memory = flags.memory;
  job.gpus = flags.gpus;
  const double cpus = parse_quantity("--kube-cpus", flags.cpus);
  job.threads = config.threads > 0
                    ? static_cast<int>(config.threads)
                    : std::max(1, static_cast<int>(std::min(cpus, 1024.0)) / job.members);
  job.service_account = flags.service_account;
  job.node_selector = read_pairs("--kube-node-selector", flags.node_selector);
  job.labels = read_pairs("--kube-label", flags.labels);
  job.metrics_port = metrics_port(config);
  job.token_secret = flags.token_secret;
  job.tls_secret = flags.tls_secret;
  if (!flags.tls_name.empty() && flags.tls_secret.empty())
    throw ConfigError(
        "--kube-tls-name {}: is for the certificates of --kube-tls-secret, which is "
        "not given",
        flags.tls_name);
  job.tls_name = flags.tls_name.empty() ? coordinator_name(job.name) : flags.tls_name;
  read_user(flags.user, job);
  job.grace_seconds = read_seconds("--kube-grace", flags.grace);
  job.keep_seconds = read_seconds("--kube-keep", flags.keep);
  check_kubernetes_job(job);
  check_paths(config, job);
  check_run(config, job);
  yaml_documents(kubernetes_objects(job));  // what cannot be written down
  return job;
}

int launch_on_kubernetes(const RunConfig& config, const std::string& run_file,
                         const std::vector<std::string>& settings, int workers, int min_workers,
                         int max_restarts, bool dry_run, bool attach, const KubernetesFlags& flags,
                         const std::function<void(const KubernetesJob&)>& submitted) {
  KubernetesJob job =
      make_kubernetes_job(config, run_file, settings, workers, min_workers, max_restarts, flags);
  if (dry_run) {
    fmt::print("{}", yaml_documents(kubernetes_objects(job)));
    return 0;
  }
  const Kubectl kubectl(kubectl_options(flags));
  make_room(kubectl, job);
  if (job.token_secret.empty() && job.controller == KubernetesOperator::none) {
    const char* given = std::getenv("BALLOT_TOKEN");
    job.token = given != nullptr && *given != '\0' ? given : new_token();
  }
  kubectl.apply(yaml_documents(kubernetes_objects(job)));
  if (job.controller == KubernetesOperator::none) give_to_job(kubectl, job);
  if (submitted) submitted(job);
  log_info("job {} is submitted: {} workers, {}", job.name, workers,
           kubectl.line({"get", "pods", "--selector", job_selector(job.name), "--watch"}));
  if (!attach) return 0;
  FollowOptions options;
  options.controller = job.controller;
  options.grace = std::chrono::seconds(job.grace_seconds + 60);
  options.log_folder = kubernetes_log_folder(job.name, flags);
  return follow_kubernetes(kubectl, job.name, options);
}

std::string kubernetes_log_folder(const std::string& job, const KubernetesFlags& flags) {
  return flags.log_folder.empty() ? job + "-logs" : flags.log_folder;
}

void add_kubernetes_flags(CLI::App& command, KubernetesFlags& flags) {
  const auto add = [&](const char* name, std::string& value, const char* type, const char* help) {
    CLI::Option* option = command.add_option(name, value, help)->type_name(type);
    if (!value.empty()) option->capture_default_str();
    option->group("On Kubernetes");
  };
  const auto add_list = [&](const char* name, std::vector<std::string>& values, const char* help) {
    command.add_option(name, values, help)->type_name("KEY=VALUE")->group("On Kubernetes");
  };
  command
      .add_option("--operator", flags.controller,
                  "mpi: a fixed job over MPI by Kubeflow's MPI operator (MPIJob v2beta1), not an "
                  "elastic one")
      ->check(CLI::IsMember({"mpi"}))
      ->group("On Kubernetes");
  add("--kube-image", flags.image, "IMAGE", "the container's image (deploy/Dockerfile)");
  add("--kube-claim", flags.claim, "CLAIM",
      "PersistentVolumeClaim with model, data and run folder; all pods write to it "
      "(ReadWriteMany)");
  add("--kube-mount", flags.mount_path, "PATH",
      "where the pods have it; paths of the run file are below or relative to it");
  add("--namespace", flags.name_space, "NAME", "default: that of the context");
  add("--kube-context", flags.context, "NAME", "of kubectl's configuration");
  add("--kube-kubeconfig", flags.kubeconfig, "FILE", "kubectl's configuration");
  add("--kube-cpus", flags.cpus, "QUANTITY", "of a voter's pod, requested and its limit");
  add("--kube-memory", flags.memory, "QUANTITY", "of a voter's pod, requested and its limit");
  command.add_option("--kube-gpus", flags.gpus, "nvidia.com/gpu of a voter's pod: 0 or 1")
      ->capture_default_str()
      ->group("On Kubernetes");
  add("--kube-user", flags.user, "UID[:GID]", "who the processes are on the volume; not root");
  add("--kube-grace", flags.grace, "TIME",
      "from SIGTERM to SIGKILL: for a step, its checkpoint, and leaving in order");
  add("--kube-keep", flags.keep, "TIME", "after its end the job and its logs stay for so long");
  add("--kube-service-account", flags.service_account, "NAME", "of the pods");
  add_list("--kube-node-selector", flags.node_selector, "labels of the nodes to run on");
  add_list("--kube-label", flags.labels, "more labels for all objects and pods");
  add("--kube-pull-policy", flags.pull_policy, "POLICY", "Always, IfNotPresent or Never");
  add("--kube-pull-secret", flags.pull_secret, "SECRET", "for the image's registry");
  add("--kube-token-secret", flags.token_secret, "SECRET",
      "an existing secret with the key BALLOT_TOKEN (default: one is made)");
  add("--kube-tls-secret", flags.tls_secret, "SECRET",
      "mutual TLS: an existing secret with ca.crt, tls.crt and tls.key");
  add("--kube-tls-name", flags.tls_name, "NAME",
      "whom the certificate is for (default: NAME-coordinator)");
  add("--kube-logs", flags.log_folder, "FOLDER",
      "attached: where the logs are collected (default: NAME-logs)");
}

}  // namespace ballot
