// The slow truth of models/ops/bias.h.
#pragma once

#include <vector>

namespace ballot::reference {

template <class S>
void add_bias(std::vector<S>& y, const std::vector<S>& bias) {
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias[i % bias.size()];
}

}  // namespace ballot::reference
