// Rotary position embedding in the rotate-half form of Hugging Face's Llama (Su et al. 2021,
// arXiv:2104.09864).
//
// With a = x[i], b = x[i + D/2] and angle t * f[i], f[i] = theta^(-2i/D): a' = a cos - b sin, b' =
// b cos + a sin. The inverse rotates by the opposite angle, which is also the gradient. Models made
// for longer texts than they were pretrained on turn slower: RopeScaling.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/bfloat16.h"  // bfloat16
#include "core/buffer.h"    // Buffer
#include "core/device.h"    // Stream

namespace ballot {

// How much slower pairs turn than theta says.
struct RopeScaling {
  enum class Type {
    none,
    linear,  // all by `factor` (position interpolation, Chen et al. 2023, arXiv:2306.15595)
    // As Llama 3.1: pairs that turn fewer than `low_factor` times in `original_positions` by
    // `factor`, those that turn more than `high_factor` times not at all, between them by a share
    // that grows linearly with the number of turns.
    llama3,
  };
  Type type = Type::none;
  double factor = 1;
  double low_factor = 1, high_factor = 4;
  std::int64_t original_positions = 8192;
  bool operator==(const RopeScaling&) const = default;
};

// f[i] of the D/2 pairs, radians a position.
std::vector<double> rope_frequencies(std::int64_t head_size, double theta,
                                     const RopeScaling& scaling = {});

// cos and sin of every angle, fp32 rounded from double, row t holding D/2 of each, on one device.
// Grows when a longer T is asked for.
class RopeTable {
 public:
  explicit RopeTable(std::vector<double> frequencies, Device device = {})
      : half_(static_cast<std::int64_t>(frequencies.size())),
        frequencies_(std::move(frequencies)),
        device_(device) {}
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
  std::vector<double> frequencies_;
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
