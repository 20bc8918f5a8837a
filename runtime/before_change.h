// Who is told what is about to change, because it still has to read what it was: a checkpoint under
// way.
#pragma once

#include <functional>

#include "core/parameter.h"

namespace ballot {

// A parameter's value, or all that its rule remembers of it (momentum, second moment).
enum class Changing { value, state };

// Called by the step's thread before each change; returns when the change may be made.
using BeforeChange = std::function<void(const Parameter& parameter, Changing what)>;

}  // namespace ballot
