// The slow truth of models/ops/gelu.h.
#pragma once

#include <cmath>
#include <complex>
#include <numbers>
#include <vector>

namespace ballot::reference {

template <class S>
S gelu(const S& z) {
  using std::tanh;
  return 0.5 * z * (1.0 + tanh(std::sqrt(2.0 / std::numbers::pi) * (z + 0.044715 * z * z * z)));
}

template <class S>
std::vector<S> gelu(const std::vector<S>& z) {
  std::vector<S> act;
  for (const S& value : z) act.push_back(gelu(value));
  return act;
}

}  // namespace ballot::reference
