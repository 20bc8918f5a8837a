// --tls-...: the flags by which a process shows a coordinator who it is, or the coordinator itself.
#pragma once

#include "runtime/coordinator/coordinator_access.h"

namespace CLI {
class App;
}

namespace ballot {

// The secret is no flag: it is in the environment (BALLOT_TOKEN), where `ps` does not show it.
void add_access_flags(CLI::App& command, CoordinatorAccess& access);

}  // namespace ballot
