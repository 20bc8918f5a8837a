// The mean loss on held-out data, over consecutive windows (see EvaluationWindows).
#pragma once

#include <cstdint>

#include "collectives/transport/transport.h"
#include "models/model.h"
#include "runtime/sampler.h"

namespace ballot {

// On one process.
Loss evaluate(Model& model, const EvaluationWindows& windows, std::int64_t sequences_at_once);

// `patience`: how long to wait for the others once the own share is done.
// Collective: each worker takes every W-th batch of windows; sums are added in the order of ranks,
// so every worker returns the same loss.
Loss evaluate(Model& model, const EvaluationWindows& windows, std::int64_t sequences_at_once,
              Transport& transport, Duration patience);

}  // namespace ballot
