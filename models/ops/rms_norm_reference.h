// The slow truth of models/ops/rms_norm.h: forward on any scalar; its gradient is taken by complex
// step.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace ballot::reference {

// x (N, C), gain (C) -> y (N, C).
template <class S>
std::vector<S> rms_norm(const std::vector<S>& x, const std::vector<S>& gain, double epsilon) {
  using std::sqrt;
  const std::size_t cols = gain.size();
  std::vector<S> y(x.size());
  for (std::size_t row = 0; row < x.size(); row += cols) {
    S sum = 0.0;
    for (std::size_t c = 0; c < cols; ++c) sum += x[row + c] * x[row + c];
    const S rms = sqrt(sum / static_cast<double>(cols) + epsilon);
    for (std::size_t c = 0; c < cols; ++c) y[row + c] = x[row + c] / rms * gain[c];
  }
  return y;
}

}  // namespace ballot::reference
