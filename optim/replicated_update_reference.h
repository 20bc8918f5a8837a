// The slow truth of what replicas compute redundantly: one element at a time, any scalar.
//
// With T = float, compiled without contraction, it has the bits of replicated_update.cpp; with T =
// double it is what they approximate.
#pragma once

#include <cmath>
#include <cstdint>

#include "optim/parameter_group.h"

namespace ballot {

// Names the factors that replicated_update.cpp computes once per call.
template <class T>
struct AdamReference {
  T keep1, absorb1, keep2, absorb2, step, root, epsilon;
};

template <class T>
AdamReference<T> adam_reference(const ParameterGroup& group, T step, std::int64_t count) {
  double power1 = 1, power2 = 1;
  for (std::int64_t i = 0; i < count; ++i) power1 *= group.beta1, power2 *= group.beta2;
  return {T(group.beta1),         T(1 - group.beta1),       T(group.beta2),  T(1 - group.beta2),
          T(step / (1 - power1)), T(std::sqrt(1 - power2)), T(group.epsilon)};
}

template <class T>
T decay_reference(T p, T decay) {
  if (decay == 0) return p;
  const T lost = decay * p;
  return p - lost;
}

template <class T>
T verdict_reference(T p, bool negative, bool held, T decay, T step) {
  p = decay_reference(p, decay);
  if (held) return p;
  return negative ? p - (-step) : p - step;
}

template <class T>
T dense_reference(T p, T direction, T decay, T step) {
  const T moved = step * direction;
  return decay_reference(p, decay) - moved;
}

template <class T>
T adamw_reference(T p, T g, T& m, T& v, T decay, const AdamReference<T>& f) {
  const T square = g * g;
  const T kept1 = f.keep1 * m, added1 = f.absorb1 * g;
  const T kept2 = f.keep2 * v, added2 = f.absorb2 * square;
  m = kept1 + added1;
  v = kept2 + added2;
  const T scale = std::sqrt(v) / f.root + f.epsilon;
  const T numerator = f.step * m;
  return decay_reference(p, decay) - numerator / scale;
}

}  // namespace ballot
