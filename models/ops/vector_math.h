// Functions for vectorized loops that libm offers only as calls: exp, within 2 units in the last
// place.
#pragma once

#include <bit>
#include <cstdint>

namespace ballot {

// exp(x) for x in [-87.3, 88.3], clamped to that range outside; NaN stays NaN. Cephes' expf
// polynomial (Moshier) after reduction by ln 2 in two parts; relative error below 2e-7.
// Branch-free, so loops over it vectorize.
[[gnu::always_inline]] inline float vector_exp(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.3f ? 88.3f : x;
  const float shifted =
      x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) + 127u) << 23;
  return p * std::bit_cast<float>(exponent);
}

[[gnu::always_inline]] inline float vector_sigmoid(float x) {
  return 1.0f / (1.0f + vector_exp(-x));
}

}  // namespace ballot
