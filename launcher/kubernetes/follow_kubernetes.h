// An attached job: its state and its logs as they come, until it has ended.
#pragma once

#include <chrono>
#include <string>

#include "launcher/kubernetes/kubectl.h"

namespace ballot {

struct FollowOptions {
  KubernetesOperator controller = KubernetesOperator::none;
  std::chrono::milliseconds look_every{2'000};
  std::chrono::milliseconds grace{360'000};        // for the workers to leave when asked
  std::chrono::milliseconds unreachable{600'000};  // how long a cluster may be gone
  std::string log_folder;  // <worker>.log, coordinator.log; made if it is not there
  bool forward_output = true;
};

// Blocks until the job is over; its exit code (exit_code_of). SIGINT and SIGTERM: the workers leave
// in order, the job's objects are deleted, the code is ExitCode::retry; a second one: 128 + signal,
// and the cluster goes on with that by itself. Main thread, before others are started.
int follow_kubernetes(const Kubectl& kubectl, const std::string& job, const FollowOptions& options);

}  // namespace ballot
