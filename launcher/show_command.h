// Commands as a dry run shows them: what a shell would read back.
#pragma once

#include <string>

#include "launcher/cluster/starter.h"  // StartCommand

namespace ballot {

// The line that starts an agent, and below it what the agent is ordered to run, with its
// environment. Secrets are not shown, nor OMP_NUM_THREADS, which a preflight chooses.
std::string shown_start(const StartCommand& start);

}  // namespace ballot
