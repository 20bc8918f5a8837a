#include "launcher/kubernetes/recorded_job.h"

#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launcher/line_output.h"  // write_all

namespace ballot {
namespace {

using Json = nlohmann::ordered_json;

KubernetesLog find_log(const std::string& worker, int workers) {
  if (worker == "coordinator") return {KubernetesLog::Of::coordinator};
  if (worker == "launcher") return {KubernetesLog::Of::launcher};
  const bool number = !worker.empty() && worker.size() <= 6 &&
                      worker.find_first_not_of("0123456789") == std::string::npos;
  if (!number || std::stoi(worker) >= workers)
    throw ConfigError("--worker {}: expected 0 to {}, coordinator or launcher", worker,
                      workers - 1);
  return {KubernetesLog::Of::worker, std::stoi(worker)};
}

std::string last_lines(const std::string& text, int lines) {
  if (lines < 0) return text;
  std::size_t begin = text.size();
  if (begin > 0 && text.back() == '\n') --begin;
  for (; begin > 0; --begin)
    if (text[begin - 1] == '\n' && --lines <= 0) break;
  return lines == 0 && begin == 0 ? "" : text.substr(begin);
}

}  // namespace

std::string to_id(const RecordedKubernetesJob& job) {
  const Json id = {{"kind", job.controller == KubernetesOperator::mpi ? "MPIJob" : "Job"},
                   {"name", job.name},
                   {"namespace", job.options.name_space},
                   {"context", job.options.context},
                   {"kubeconfig", job.options.kubeconfig}};
  return id.dump();
}

RecordedKubernetesJob parse_kubernetes_id(const std::string& id) {
  const Json json = Json::parse(id, nullptr, false);
  const auto text = [&](const char* key) {
    if (!json.is_object() || !json.contains(key) || !json[key].is_string())
      throw DataError("\"{}\" names no job on Kubernetes: it has no {}", id.substr(0, 80), key);
    return json[key].get<std::string>();
  };
  RecordedKubernetesJob job;
  job.controller = text("kind") == "MPIJob" ? KubernetesOperator::mpi : KubernetesOperator::none;
  job.name = text("name");
  job.options.name_space = text("namespace");
  job.options.context = text("context");
  job.options.kubeconfig = text("kubeconfig");
  return job;
}

void print_kubernetes_logs(const RecordedKubernetesJob& job, int workers, const std::string& worker,
                           int lines, bool follow) {
  const Kubectl kubectl(job.options);
  const auto print = [](std::string_view text) { write_all(STDOUT_FILENO, text); };
  if (follow) {
    if (worker.empty())
      throw ConfigError(
          "--follow: on Kubernetes of one worker at a time; expected --worker N, coordinator or "
          "launcher (or launch --attach, which follows all)");
    kubectl.follow_logs(job.name, find_log(worker, workers), print, {});
    return;
  }
  if (!worker.empty())
    return print(last_lines(kubectl.logs(job.name, find_log(worker, workers)), lines));
  const bool mpi = job.controller == KubernetesOperator::mpi;
  print("== " + std::string(mpi ? "launcher" : "coordinator") + "\n");
  print(last_lines(
      kubectl.logs(job.name, {mpi ? KubernetesLog::Of::launcher : KubernetesLog::Of::coordinator}),
      lines));
  for (int i = 0; !mpi && i < workers; ++i) {
    print(fmt::format("== worker {}\n", i));
    print(last_lines(kubectl.logs(job.name, {KubernetesLog::Of::worker, i}), lines));
  }
}

}  // namespace ballot
