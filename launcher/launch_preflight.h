// What a job asks of its hosts, and the preflight with that (cluster/preflight.h).
#pragma once

#include "launcher/cluster/placement.h"
#include "launcher/cluster/preflight.h"
#include "launcher/launch_flags.h"

namespace ballot {

// Of --on, --program and --ssh.
Starter starter_of(const LaunchFlags& flags);

// One for each worker.
bool needs_gpus(const RunConfig& config, const LaunchFlags& flags);

// The value of NCCL_SOCKET_IFNAME that makes NCCL take the network chosen; what this process was
// given, where somebody has set it; empty on loopback, where NCCL may take what it likes.
// ConfigError where both it and --interface say one.
std::string nccl_interfaces(const NetworkChoice& network, const std::string& asked);

Preflight look_before_launch(const RunConfig& config, const LaunchFlags& flags,
                             const Placement& placement, const Starter& starter,
                             bool compare_models = true);

// Prints its table; Error, with the exit code that tells whether a retry can help, where the job
// may not be started.
void require_ready(const Preflight& seen);

}  // namespace ballot
