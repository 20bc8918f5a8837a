// Names of states, look-ups in records.
#include "runtime/protocol/messages.h"

#include <algorithm>

namespace ballot {

const TermWorker* TermRecord::find(std::int32_t worker) const {
  const auto found = std::find_if(workers.begin(), workers.end(),
                                  [&](const TermWorker& w) { return w.identity.worker == worker; });
  return found == workers.end() ? nullptr : &*found;
}

const char* to_string(WorkerState state) {
  switch (state) {
    case WorkerState::joining:
      return "joining";
    case WorkerState::voting:
      return "voting";
    case WorkerState::sealed:
      return "sealed";
  }
  return "?";
}

}  // namespace ballot
