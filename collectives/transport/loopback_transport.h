// Ranks as threads of one process: what every test runs on, and a run with one worker.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "collectives/transport/transport.h"

namespace ballot {

// `size` transports that reach each other; each is to be used by one thread. If one is destroyed
// while others wait for it, they throw PeerLost.
std::vector<std::unique_ptr<Transport>> make_loopback(int size);

// Runs body(transport) on `size` threads and waits for all; rethrows the first failure (by time),
// so that a failing rank's own error is seen rather than the PeerLost it causes. The threads share
// the caller's number of OpenMP threads.
void run_loopback(int size, const std::function<void(Transport&)>& body);

}  // namespace ballot
