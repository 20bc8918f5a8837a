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

// What --transport nccl refuses of a job on other hosts before they are looked at: check_nccl, and
// that NCCL_SOCKET_IFNAME and --interface both say a network. The variable's value; empty: not set.
std::string check_nccl_flags(const RunConfig& config, const LaunchFlags& flags);

Preflight look_before_launch(const RunConfig& config, const LaunchFlags& flags,
                             const Placement& placement, const Starter& starter,
                             bool compare_models = true, bool again = false);

// Prints its table; Error, with the exit code that tells whether a retry can help, where the job
// may not be started.
void require_ready(const Preflight& seen);

}  // namespace ballot
