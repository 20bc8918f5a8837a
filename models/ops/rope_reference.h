// The slow truth of models/ops/rope.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace ballot::reference {

// Rotates one head's vector x (D) as at `position`; a negative position rotates back.
template <class S>
std::vector<S> rope(const std::vector<S>& x, std::int64_t position, double theta) {
  const std::size_t half = x.size() / 2;
  std::vector<S> y(x.size());
  for (std::size_t i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(position) *
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(x.size()));
    y[i] = x[i] * std::cos(angle) - x[half + i] * std::sin(angle);
    y[half + i] = x[half + i] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

}  // namespace ballot::reference
