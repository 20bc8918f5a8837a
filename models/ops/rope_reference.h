// The slow truth of models/ops/rope.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "models/ops/rope.h"  // RopeScaling

namespace ballot::reference {

// As transformers has it (modeling_rope_utils, "linear" and "llama3"), by wave lengths.
inline double rope_frequency(std::size_t i, std::size_t d, double theta,
                             const RopeScaling& scaling = {}) {
  const double frequency =
      1 / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(d));
  if (scaling.type == RopeScaling::Type::none) return frequency;
  if (scaling.type == RopeScaling::Type::linear) return frequency / scaling.factor;
  const double before = static_cast<double>(scaling.original_positions),
               wave = 2 * 3.14159265358979323846 / frequency;
  if (wave > before / scaling.low_factor) return frequency / scaling.factor;
  if (wave < before / scaling.high_factor) return frequency;
  const double smooth =
      (before / wave - scaling.low_factor) / (scaling.high_factor - scaling.low_factor);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

// Rotates one head's vector x (D) as at `position`; a negative position rotates back.
template <class S>
std::vector<S> rope(const std::vector<S>& x, std::int64_t position, double theta,
                    const RopeScaling& scaling = {}) {
  const std::size_t half = x.size() / 2;
  std::vector<S> y(x.size());
  for (std::size_t i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(position) * rope_frequency(i, x.size(), theta, scaling);
    y[i] = x[i] * std::cos(angle) - x[half + i] * std::sin(angle);
    y[half + i] = x[half + i] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

}  // namespace ballot::reference
