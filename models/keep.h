// What a forward leaves behind for a backward.
#pragma once

namespace ballot {

// Of every layer: nothing, since no backward follows; what it begins with, so that the backward
// computes the rest again; all that the backward reads.
enum class Keep { nothing, inputs, everything };

}  // namespace ballot
