// The slow truth of models/ops/swiglu.h.
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace ballot::reference {

template <class S>
S silu(const S& z) {
  using std::exp;
  return z / (1.0 + exp(-z));
}

// up_gate (N, 2I) as [up | gate] -> act (N, I).
template <class S>
std::vector<S> swiglu(const std::vector<S>& up_gate, std::size_t cols) {
  std::vector<S> act(up_gate.size() / 2);
  for (std::size_t n = 0; n * cols < act.size(); ++n)
    for (std::size_t c = 0; c < cols; ++c)
      act[n * cols + c] = silu(up_gate[n * 2 * cols + cols + c]) * up_gate[n * 2 * cols + c];
  return act;
}

}  // namespace ballot::reference
