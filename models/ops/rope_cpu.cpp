// Rotary position embedding on the CPU.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/copy.h"
#include "core/parallel.h"
#include "models/ops/rope.h"

namespace ballot {
namespace {

// sign = +1 rotates, -1 rotates back.
template <class X, class Y>
[[gnu::always_inline]] inline void rotate_row(const X* __restrict x,
                                              const float* __restrict cosines,
                                              const float* __restrict sines, std::int64_t half,
                                              float scale, float sign, Y* __restrict low,
                                              Y* __restrict high) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = to_float(x[i]) * scale;
    const float b = to_float(x[half + i]) * scale;
    const float sine = sines[i] * sign;
    low[i] = from_float<Y>(a * cosines[i] - b * sine);
    high[i] = from_float<Y>(b * cosines[i] + a * sine);
  }
}

#define BALLOT_ROTATE_ROWS(X, Y)                                                            \
  BALLOT_VECTORIZED void rotate_rows(                                                       \
      const X* __restrict x, std::int64_t x_stride, const float* __restrict cosines,        \
      const float* __restrict sines, std::int64_t half, std::int64_t rows, float scale,     \
      float sign, Y* __restrict y, std::int64_t y_stride) {                                 \
    for (std::int64_t n = 0; n < rows; ++n)                                                 \
      rotate_row(x + n * x_stride, cosines + n * half, sines + n * half, half, scale, sign, \
                 y + n * y_stride, y + n * y_stride + half);                                \
  }
BALLOT_ROTATE_ROWS(float, float)
BALLOT_ROTATE_ROWS(bfloat16, bfloat16)
BALLOT_ROTATE_ROWS(float, bfloat16)
#undef BALLOT_ROTATE_ROWS

}  // namespace

std::vector<double> rope_frequencies(std::int64_t head_size, double theta,
                                     const RopeScaling& scaling) {
  const std::int64_t half = head_size / 2;
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
    double share = 1;  // of the frequency that stays as it is
    if (scaling.type == RopeScaling::Type::linear) share = 0;
    if (scaling.type == RopeScaling::Type::llama3) {
      const double turns =
          static_cast<double>(scaling.original_positions) * frequency / (2 * std::numbers::pi);
      share = std::clamp((turns - scaling.low_factor) / (scaling.high_factor - scaling.low_factor),
                         0.0, 1.0);
    }
    frequencies.push_back(share * frequency + (1 - share) * frequency / scaling.factor);
  }
  return frequencies;
}

void RopeTable::extend(std::int64_t length, Stream& stream) {
  const std::int64_t known =
      half_ == 0 ? length : static_cast<std::int64_t>(cosines_.size()) / half_;
  if (length <= known) return;
  for (std::int64_t t = known; t < length; ++t)
    for (std::int64_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(t) * frequencies_[static_cast<std::size_t>(i)];
      cosines_.push_back(static_cast<float>(std::cos(angle)));
      sines_.push_back(static_cast<float>(std::sin(angle)));
    }
  if (!on_device()) return;
  const auto send = [&](const std::vector<float>& values, Buffer& buffer) {
    buffer = Buffer(values.size() * sizeof(float), device_);
    copy_bytes(buffer.data(), device_, values.data(), Device{}, buffer.size_bytes(), stream);
  };
  send(cosines_, device_cosines_);
  send(sines_, device_sines_);
}

void rope_rows(const float* x, std::int64_t x_stride, const float* cosines, const float* sines,
               std::int64_t half, std::int64_t rows, float scale, float* y, std::int64_t y_stride) {
  rotate_rows(x, x_stride, cosines, sines, half, rows, scale, 1.0f, y, y_stride);
}
void rope_rows(const bfloat16* x, std::int64_t x_stride, const float* cosines, const float* sines,
               std::int64_t half, std::int64_t rows, float scale, bfloat16* y,
               std::int64_t y_stride) {
  rotate_rows(x, x_stride, cosines, sines, half, rows, scale, 1.0f, y, y_stride);
}
void rope_inverse_rows(const float* x, std::int64_t x_stride, const float* cosines,
                       const float* sines, std::int64_t half, std::int64_t rows, float scale,
                       float* y, std::int64_t y_stride) {
  rotate_rows(x, x_stride, cosines, sines, half, rows, scale, -1.0f, y, y_stride);
}
void rope_inverse_rows(const float* x, std::int64_t x_stride, const float* cosines,
                       const float* sines, std::int64_t half, std::int64_t rows, float scale,
                       bfloat16* y, std::int64_t y_stride) {
  rotate_rows(x, x_stride, cosines, sines, half, rows, scale, -1.0f, y, y_stride);
}

}  // namespace ballot
