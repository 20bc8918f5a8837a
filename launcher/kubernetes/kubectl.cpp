#include "launcher/kubernetes/kubectl.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>
#include <thread>

#include "core/clock.h"
#include "core/error.h"
#include "launcher/child_process.h"  // find_program
#include "launcher/kubernetes/kubernetes_objects.h"
#include "launcher/program_call.h"

namespace ballot {
namespace {

constexpr auto kLookAgain = std::chrono::milliseconds(500);

const char* kind_of(KubernetesOperator controller) {
  return controller == KubernetesOperator::mpi ? "mpijobs.kubeflow.org" : "job";
}

// What passes by itself, or with the network.
bool may_pass(const std::string& errors) {
  for (const char* sign :
       {"connection refused", "was refused", "Unable to connect", "i/o timeout",
        "TLS handshake timeout", "no route to host", "network is unreachable", "no such host",
        "connection reset", "context deadline exceeded", "Client.Timeout", "ServiceUnavailable",
        "etcdserver", "the server is currently unable", "Too many requests", "too many requests",
        "InternalError", "unexpected EOF"})
    if (errors.find(sign) != std::string::npos) return true;
  return false;
}

// What kubectl says to people: without the lines of its log ("E1123 13:31:16.758253 ...").
std::string trimmed(const std::string& errors) {
  std::string text;
  std::istringstream lines(errors);
  for (std::string line; std::getline(lines, line);) {
    const bool logged = line.size() > 5 && std::string_view("EWIF").find(line[0]) < 4 &&
                        line.find_first_not_of("0123456789", 1) == 5 && line[5] == ' ';
    if (!logged) text += line + "\n";
  }
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text.empty() ? "nothing" : text;
}

std::string name_of(KubernetesLog log) {
  return log.of == KubernetesLog::Of::coordinator ? "the coordinator"
         : log.of == KubernetesLog::Of::launcher  ? "the launcher"
                                                  : fmt::format("worker {}", log.worker);
}

std::vector<std::string> log_arguments(const std::string& job, KubernetesLog log) {
  std::string selector = job_selector(job);
  if (log.of == KubernetesLog::Of::coordinator)
    selector += ",app.kubernetes.io/component=coordinator";
  else if (log.of == KubernetesLog::Of::launcher)
    selector += ",app.kubernetes.io/component=launcher";
  else
    selector += fmt::format(",batch.kubernetes.io/job-completion-index={}", log.worker);
  return {"logs", "--selector", selector, "--tail", "-1", "--max-log-requests", "50"};
}

}  // namespace

Kubectl::Kubectl(KubectlOptions options) : options_(std::move(options)) {
  const std::optional<std::string> program = find_program("kubectl");
  if (!program)
    throw Unavailable(
        "kubectl is not in PATH: jobs on Kubernetes are submitted through it; install the one of "
        "your cluster's version (1.29 or newer) and its configuration, or use --dry-run");
  program_ = *program;
}

std::vector<std::string> Kubectl::command(const std::vector<std::string>& arguments) const {
  std::vector<std::string> words{program_};
  for (const auto& [flag, value] : {std::pair{"--kubeconfig", &options_.kubeconfig},
                                    {"--context", &options_.context},
                                    {"--namespace", &options_.name_space}})
    if (!value->empty()) words.insert(words.end(), {flag, *value});
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

std::string Kubectl::line(const std::vector<std::string>& arguments) const {
  std::vector<std::string> words = command(arguments);
  words[0] = "kubectl";
  return fmt::format("{}", fmt::join(words, " "));
}

std::string Kubectl::where() const {
  return fmt::format("namespace {}, context {}",
                     options_.name_space.empty() ? "of the context" : options_.name_space,
                     options_.context.empty() ? "as kubectl has it" : options_.context);
}

std::string Kubectl::call(const std::vector<std::string>& arguments, const std::string& input,
                          const std::string& waiting_for, std::chrono::milliseconds limit) const {
  ProgramCall call;
  call.command = command(arguments);
  // A little less than ours, so that kubectl says itself what was the matter.
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(limit).count();
  call.command.insert(call.command.end(),
                      {"--request-timeout", fmt::format("{}s", std::max<long>(1, whole * 9 / 10))});
  call.input = input;
  call.limit = limit;
  call.waiting_for = fmt::format("{} ({})", waiting_for, where());
  const ProgramResult result = call_program(call);
  if (result.exit_code == 0) return result.output;
  const std::string said = fmt::format("{} ({}): kubectl ended with {} and says: {}", waiting_for,
                                       where(), result.exit_code, trimmed(result.errors));
  if (may_pass(result.errors) || result.exit_code >= 128) throw TransportError("{}", said);
  // As kubectl and a server say that they do not know an MPIJob.
  const bool no_operator = result.errors.find("mpijobs") != std::string::npos ||
                           result.errors.find("kind \"MPIJob\"") != std::string::npos;
  throw ConfigError(
      "{}{}", said,
      no_operator ? "; --operator mpi needs Kubeflow's MPI operator in the cluster" : "");
}

void Kubectl::apply(const std::string& yaml) const {
  call({"apply", "--server-side", "--field-manager", "ballot", "--force-conflicts", "-f", "-"},
       yaml, "the cluster to take the job's objects", options_.limit);
}

KubernetesState Kubectl::state(const std::string& job, KubernetesOperator controller) const {
  const std::string text =
      call({"get", kind_of(controller), job, "--ignore-not-found", "-o", "json"}, "",
           fmt::format("the state of job {}", job), options_.limit);
  if (text.find_first_not_of(" \n") == std::string::npos) return {};
  const std::string pods = call({"get", "pods", "--selector", job_selector(job), "-o", "json"}, "",
                                fmt::format("the pods of job {}", job), options_.limit);
  return parse_kubernetes_state(text, pods);
}

std::string Kubectl::logs(const std::string& job, KubernetesLog log) const {
  return call(log_arguments(job, log), "",
              fmt::format("the log of {} of job {}", name_of(log), job), options_.limit);
}

void Kubectl::follow(std::vector<std::string> arguments, const std::string& what,
                     const std::function<void(std::string_view)>& take,
                     const std::function<bool()>& stop) const {
  ProgramCall call;
  arguments.push_back("--follow");
  call.command = command(arguments);
  call.limit = std::chrono::milliseconds(0);
  call.on_output = take;
  call.stop = stop;
  const ProgramResult result = call_program(call);
  if (result.exit_code != 0 && !result.stopped)
    throw TransportError("the log of {} ({}): kubectl ended with {} and says: {}", what, where(),
                         result.exit_code, trimmed(result.errors));
}

void Kubectl::follow_logs(const std::string& job, KubernetesLog log,
                          const std::function<void(std::string_view)>& take,
                          const std::function<bool()>& stop) const {
  follow(log_arguments(job, log), fmt::format("{} of job {}", name_of(log), job), take, stop);
}

void Kubectl::follow_pod(const std::string& pod, const std::function<void(std::string_view)>& take,
                         const std::function<bool()>& stop) const {
  follow({"logs", pod, "--tail", "-1"}, "pod " + pod, take, stop);
}

void Kubectl::suspend(const std::string& job, KubernetesOperator controller) const {
  const char* patch = controller == KubernetesOperator::mpi
                          ? R"({"spec":{"runPolicy":{"suspend":true}}})"
                          : R"({"spec":{"suspend":true}})";
  call({"patch", kind_of(controller), job, "--type", "merge", "--patch", patch}, "",
       fmt::format("job {} to be suspended", job), options_.limit);
}

void Kubectl::stop(const std::string& job, KubernetesOperator controller,
                   std::chrono::milliseconds patience) const {
  KubernetesState now = state(job, controller);
  if (now.phase != KubernetesState::Phase::absent && !now.over()) {
    suspend(job, controller);
    // Workers that leave need the coordinator: it goes after them.
    for (const Deadline deadline = Deadline::in(patience);;
         std::this_thread::sleep_for(kLookAgain)) {
      now = state(job, controller);
      const std::vector<std::string> names = pods_left(now);
      if (names.empty() || now.over()) break;
      if (deadline.passed())
        throw Timeout("job {} ({}) is suspended, but after {:g} s there still run {}", job, where(),
                      seconds(patience), fmt::join(names, ", "));
    }
  }
  remove(job, controller);
}

void Kubectl::remove(const std::string& job, KubernetesOperator controller, bool wait) const {
  const char* waits = wait ? "--wait=true" : "--wait=false";
  call({"delete", kind_of(controller), job, "--ignore-not-found", "--cascade", "foreground", waits},
       "", fmt::format("job {} to be deleted", job), options_.limit);
  call({"delete", "statefulset,service,configmap,secret", "--selector",
        job_selector(job) + ",app.kubernetes.io/managed-by=ballot", "--ignore-not-found", waits},
       "", fmt::format("what belongs to job {} to be deleted", job), options_.limit);
}

}  // namespace ballot
