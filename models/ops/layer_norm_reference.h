// The slow truth of models/ops/layer_norm.h: forward on any scalar; its gradient is taken by
// complex step.
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace ballot::reference {

// x (N, C), gain and bias (C) -> y (N, C).
template <class S>
std::vector<S> layer_norm(const std::vector<S>& x, const std::vector<S>& gain,
                          const std::vector<S>& bias, double epsilon) {
  using std::sqrt;
  const std::size_t cols = gain.size();
  std::vector<S> y(x.size());
  for (std::size_t row = 0; row < x.size(); row += cols) {
    S mean = 0.0, variance = 0.0;
    for (std::size_t c = 0; c < cols; ++c) mean += x[row + c] / static_cast<double>(cols);
    for (std::size_t c = 0; c < cols; ++c)
      variance += (x[row + c] - mean) * (x[row + c] - mean) / static_cast<double>(cols);
    const S deviation = sqrt(variance + epsilon);
    for (std::size_t c = 0; c < cols; ++c)
      y[row + c] = (x[row + c] - mean) / deviation * gain[c] + bias[c];
  }
  return y;
}

}  // namespace ballot::reference
