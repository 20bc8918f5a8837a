#include "collectives/collective.h"

#include <chrono>

namespace ballot {

void Collective::release_all() {
  for (std::size_t segment = 0; segment < segments(); ++segment) release(segment);
}

void Collective::finish(Deadline deadline) {
  while (!advance()) {
    if (moved()) continue;
    if (deadline.passed()) give_up();
    transport().idle(std::chrono::microseconds(200));
  }
}

}  // namespace ballot
