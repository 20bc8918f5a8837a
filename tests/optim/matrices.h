// Random matrices for the tests of this floor: reproducible, padded as the arena pads.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "collectives/ballot_layout.h"
#include "core/parallel.h"
#include "core/parameter_arena.h"

namespace ballot {

// A stream of the CPU, for ops that have nothing else to do with one.
inline Stream cpu;

inline std::vector<double> random_normal(std::int64_t count, std::uint64_t seed, double scale = 1) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal(0, scale);
  std::vector<double> x(count);
  for (double& e : x) e = normal(engine);
  return x;
}

// Copies (rows, cols) values into a matrix with any row stride.
template <class T>
void fill(const Tensor& x, const std::vector<T>& values) {
  float* data = x.f32();
  for (std::int64_t i = 0; i < x.extent[0]; ++i)
    for (std::int64_t j = 0; j < x.extent[1]; ++j)
      data[i * x.stride[0] + j] = static_cast<float>(values[i * x.extent[1] + j]);
}

inline std::vector<float> elements(const Tensor& x) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < x.extent[0]; ++i)
    for (std::int64_t j = 0; j < x.extent[1]; ++j)
      values.push_back(x.type == DType::f32 ? x.f32()[i * x.stride[0] + j]
                                            : to_float(x.bf16()[i * x.stride[0] + j]));
  return values;
}

inline BallotSegment segment_of(const Parameter& p) {
  BallotSegment segment;
  segment.name = p.shape.name;
  segment.rows = p.shape.rows;
  segment.cols = p.shape.cols;
  segment.row_stride = p.row_stride;
  segment.arena_offset = p.offset;
  return segment;
}

// A padded matrix that owns its memory; rows a multiple of 64 apart.
class PaddedMatrix {
 public:
  PaddedMatrix(std::int64_t rows, std::int64_t cols, DType type = DType::f32)
      : stride_((cols + 63) / 64 * 64),
        buffer_(static_cast<std::size_t>(rows * stride_) * size_bytes(type)),
        view_(make_matrix(buffer_.data(), type, rows, cols, stride_)) {}
  const Tensor& view() const { return view_; }
  operator const Tensor&() const { return view_; }  // NOLINT
  bool padding_is_zero() const {
    for (std::int64_t i = 0; i < view_.extent[0]; ++i)
      for (std::int64_t j = view_.extent[1]; j < stride_; ++j)
        for (std::size_t b = 0; b < size_bytes(view_.type); ++b)
          if (view_.data[static_cast<std::size_t>(i * stride_ + j) * size_bytes(view_.type) + b] !=
              std::byte{0})
            return false;
    return true;
  }

 private:
  std::int64_t stride_;
  Buffer buffer_;
  Tensor view_;
};

// Sets the calling thread's team for a scope.
class Team {
 public:
  explicit Team(int threads) : before_(thread_count()) { set_thread_count(threads); }
  ~Team() { set_thread_count(before_); }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

 private:
  int before_;
};

}  // namespace ballot
