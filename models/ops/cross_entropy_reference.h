// The slow truth of models/ops/cross_entropy.h.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "models/model.h"  // kNoTarget

namespace ballot::reference {

// The summed loss of rows of logits (N, V). The maximum of real parts is subtracted as a constant.
template <class S>
S cross_entropy(const std::vector<S>& logits, const std::vector<std::int32_t>& targets) {
  using std::exp;
  using std::log;
  using std::real;
  const std::size_t classes = logits.size() / targets.size();
  S loss = 0.0;
  for (std::size_t n = 0; n < targets.size(); ++n) {
    if (targets[n] == kNoTarget) continue;
    const S* x = logits.data() + n * classes;
    double maximum = real(x[0]);
    for (std::size_t i = 1; i < classes; ++i)
      if (real(x[i]) > maximum) maximum = real(x[i]);
    S sum = 0.0;
    for (std::size_t i = 0; i < classes; ++i) sum += exp(x[i] - maximum);
    loss += log(sum) + maximum - x[targets[n]];
  }
  return loss;
}

}  // namespace ballot::reference
