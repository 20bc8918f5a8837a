// Rotary position embedding in the rotate-half form of Hugging Face's Llama (Su et al. 2021,
// arXiv:2104.09864).
//
// With a = x[i], b = x[i + D/2] and angle t * theta^(-2i/D): a' = a cos - b sin, b' = b cos + a
// sin. The inverse rotates by the opposite angle, which is also the gradient.
#pragma once

#include <cstdint>
#include <vector>

#include "core/bfloat16.h"  // bfloat16
#include "core/buffer.h"    // Buffer
#include "core/device.h"    // Stream

namespace ballot {

// cos and sin of every angle, fp32 rounded from double, row t holding D/2 of each, on one device.
// Grows when a longer T is asked for.
class RopeTable {
 public:
  RopeTable(std::int64_t head_size, double theta, Device device = {})
      : half_(head_size / 2), theta_(theta), device_(device) {}
  void extend(std::int64_t length, Stream& stream);
  std::int64_t half() const { return half_; }
  // Addresses of the device's.
  const float* cosines(std::int64_t position) const {
    return (on_device() ? device_cosines_.as<float>() : cosines_.data()) + position * half_;
  }
  const float* sines(std::int64_t position) const {
    return (on_device() ? device_sines_.as<float>() : sines_.data()) + position * half_;
  }

 private:
  bool on_device() const { return device_.kind != Device::Kind::cpu; }

  std::int64_t half_;
  double theta_;
  Device device_;
  std::vector<float> cosines_;
  std::vector<float> sines_;
  Buffer device_cosines_;
  Buffer device_sines_;
};

// y = scale * rotate(x): rows of one head at consecutive positions, cos and sin those of the first.
// The CPU's, single-threaded: its attention calls it on the piece it is about to multiply.
void rope_rows(const float* x, std::int64_t x_stride, const float* cosines, const float* sines,
               std::int64_t half, std::int64_t rows, float scale, float* y, std::int64_t y_stride);
void rope_rows(const bfloat16* x, std::int64_t x_stride, const float* cosines, const float* sines,
               std::int64_t half, std::int64_t rows, float scale, bfloat16* y,
               std::int64_t y_stride);

// y = scale * rotate back(x).
void rope_inverse_rows(const float* x, std::int64_t x_stride, const float* cosines,
                       const float* sines, std::int64_t half, std::int64_t rows, float scale,
                       float* y, std::int64_t y_stride);
void rope_inverse_rows(const float* x, std::int64_t x_stride, const float* cosines,
                       const float* sines, std::int64_t half, std::int64_t rows, float scale,
                       bfloat16* y, std::int64_t y_stride);

}  // namespace ballot
