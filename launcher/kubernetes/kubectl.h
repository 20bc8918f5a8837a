// The cluster, asked through kubectl: whoever may use it there may use it here, and by the same
// configuration.
//
// Every call but the following of logs has a deadline. Unavailable where kubectl is not installed;
// ConfigError where the cluster refuses (it says why); TransportError where it cannot be reached or
// says to try again; Timeout where it does not answer. Safe from several threads.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/kubernetes/job_state.h"
#include "launcher/kubernetes/kubernetes_job.h"  // KubernetesOperator

namespace ballot {

struct KubectlOptions {
  std::string context, name_space, kubeconfig;  // empty: kubectl's own choice
  std::chrono::milliseconds limit{60'000};      // of one call
};

// Whose log: a worker's number, or one of the others.
struct KubernetesLog {
  enum class Of { worker, coordinator, launcher };
  Of of = Of::worker;
  int worker = 0;
};

class Kubectl {
 public:
  explicit Kubectl(KubectlOptions options);

  // Server-side; all documents of the text.
  void apply(const std::string& yaml) const;
  KubernetesState state(const std::string& job, KubernetesOperator controller) const;
  // All that it has said so far, also before its pod was made anew.
  std::string logs(const std::string& job, KubernetesLog log) const;
  // As it comes, until it ends or `stop` says so. Without a deadline. What a pod says that is made
  // anew meanwhile is not in it.
  void follow_logs(const std::string& job, KubernetesLog log,
                   const std::function<void(std::string_view)>& take,
                   const std::function<bool()>& stop) const;
  void follow_pod(const std::string& pod, const std::function<void(std::string_view)>& take,
                  const std::function<bool()>& stop) const;
  // Its pods are asked to leave in order and none are made anew; the job stays, and so does its
  // coordinator.
  void suspend(const std::string& job, KubernetesOperator controller) const;
  // Everything of it but the volume; workers that run are ended as their pods are. Returns when all
  // of it is gone, or (`wait` false) at once.
  void remove(const std::string& job, KubernetesOperator controller, bool wait = true) const;
  // Suspends, waits until its pods are gone (`patience`, then a Timeout that names them), and
  // removes it. Nothing where there is none.
  void stop(const std::string& job, KubernetesOperator controller,
            std::chrono::milliseconds patience) const;
  // The line of a command, as a person would type it.
  std::string line(const std::vector<std::string>& arguments) const;

 private:
  std::vector<std::string> command(const std::vector<std::string>& arguments) const;
  std::string call(const std::vector<std::string>& arguments, const std::string& input,
                   const std::string& waiting_for, std::chrono::milliseconds limit) const;
  void follow(std::vector<std::string> arguments, const std::string& what,
              const std::function<void(std::string_view)>& take,
              const std::function<bool()>& stop) const;
  std::string where() const;

  KubectlOptions options_;
  std::string program_;
};

}  // namespace ballot
