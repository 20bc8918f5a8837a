// The slow truth of momentum and interpolation, before Newton-Schulz: one element, any scalar.
#pragma once

#include "optim/parameter_group.h"

namespace ballot {

// Updates `m` and returns u.
template <class T>
T direction_reference(const ParameterGroup& group, T g, T& m) {
  const T b = T(group.momentum), b1 = T(group.beta1), b2 = T(group.beta2);
  switch (group.rule) {
    case Rule::olion:
      m = b2 * m + (1 - b2) * g;
      return (1 - b1) * g + b1 * m;
    case Rule::lion: {
      const T u = b1 * m + (1 - b1) * g;
      m = b2 * m + (1 - b2) * g;
      return u;
    }
    case Rule::signum:
      return m = b * m + (1 - b) * g;
    case Rule::muon:
      m = b * m + (1 - b) * g;
      return (1 - b) * g + b * m;
    case Rule::sgd:
      return m = b * m + g;
    case Rule::adamw:
      break;
  }
  return T(0);
}

}  // namespace ballot
