// What a job asks of its hosts, and the preflight with that (cluster/preflight.h).
#pragma once

#include "launcher/cluster/placement.h"
#include "launcher/cluster/preflight.h"
#include "launcher/launch_flags.h"

namespace ballot {

// Of --on, --program and --ssh.
Starter starter_of(const LaunchFlags& flags);

Preflight look_before_launch(const RunConfig& config, const LaunchFlags& flags,
                             const Placement& placement, const Starter& starter,
                             bool compare_models = true);

// Prints its table; Error, with the exit code that tells whether a retry can help, where the job
// may not be started.
void require_ready(const Preflight& seen);

}  // namespace ballot
