// RMSNorm on the CPU: one pass over the rows forward, one backward.
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "models/ops/cuda_model_ops.h"
#include "models/ops/rms_norm.h"

namespace ballot {
namespace {

constexpr std::int64_t kPieceRows = 32;  // rows whose gain gradient is summed into one partial

template <class T>
[[gnu::always_inline]] inline void forward_body(float* __restrict x, const float* __restrict addend,
                                                const float* __restrict gain, float epsilon,
                                                std::int64_t rows, std::int64_t cols,
                                                T* __restrict y, float* __restrict inverse_rms) {
  for (std::int64_t n = 0; n < rows; ++n, x += cols, y += cols) {
    if (addend != nullptr) {
      for (std::int64_t c = 0; c < cols; ++c) x[c] += addend[c];
      addend += cols;
    }
    // One loop for both, so that the sum has the same bits when it is taken again of what was
    // added.
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t c = 0; c < cols; ++c) sum += x[c] * x[c];
    const float r = 1.0f / __builtin_sqrtf(sum / static_cast<float>(cols) + epsilon);
    inverse_rms[n] = r;
    for (std::int64_t c = 0; c < cols; ++c) y[c] = from_float<T>(x[c] * r * gain[c]);
  }
}

BALLOT_VECTORIZED void forward_rows(float* __restrict x, const float* __restrict addend,
                                    const float* __restrict gain, float epsilon, std::int64_t rows,
                                    std::int64_t cols, float* __restrict y,
                                    float* __restrict inverse_rms) {
  forward_body(x, addend, gain, epsilon, rows, cols, y, inverse_rms);
}
BALLOT_VECTORIZED void forward_rows(float* __restrict x, const float* __restrict addend,
                                    const float* __restrict gain, float epsilon, std::int64_t rows,
                                    std::int64_t cols, bfloat16* __restrict y,
                                    float* __restrict inverse_rms) {
  forward_body(x, addend, gain, epsilon, rows, cols, y, inverse_rms);
}

// One piece of rows; `partial` (C) is overwritten with its part of dgain.
template <class T>
[[gnu::always_inline]] inline void backward_body(
    const float* __restrict x, const float* __restrict inverse_rms, const float* __restrict gain,
    const float* __restrict dy, std::int64_t rows, std::int64_t cols, bool accumulate,
    float* __restrict dx, bfloat16* __restrict dx_rounded, T* __restrict y,
    float* __restrict partial) {
  for (std::int64_t c = 0; c < cols; ++c) partial[c] = 0;
  for (std::int64_t n = 0; n < rows; ++n, x += cols, dy += cols, dx += cols) {
    const float r = inverse_rms[n];
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t c = 0; c < cols; ++c) {
      const float product = dy[c] * x[c];
      dot += product * gain[c];
      partial[c] += product * r;
    }
    const float pull = dot * r * r / static_cast<float>(cols);
    if (accumulate) {
      for (std::int64_t c = 0; c < cols; ++c) dx[c] += r * (gain[c] * dy[c] - x[c] * pull);
    } else {
      for (std::int64_t c = 0; c < cols; ++c) dx[c] = r * (gain[c] * dy[c] - x[c] * pull);
    }
    if (dx_rounded != nullptr) {
      for (std::int64_t c = 0; c < cols; ++c) dx_rounded[c] = to_bfloat16(dx[c]);
      dx_rounded += cols;
    }
    if (y != nullptr) {
      for (std::int64_t c = 0; c < cols; ++c) y[c] = from_float<T>(x[c] * r * gain[c]);
      y += cols;
    }
  }
}

BALLOT_VECTORIZED void backward_rows(const float* __restrict x, const float* __restrict inverse_rms,
                                     const float* __restrict gain, const float* __restrict dy,
                                     std::int64_t rows, std::int64_t cols, bool accumulate,
                                     float* __restrict dx, bfloat16* __restrict dx_rounded,
                                     float* __restrict y, float* __restrict partial) {
  backward_body(x, inverse_rms, gain, dy, rows, cols, accumulate, dx, dx_rounded, y, partial);
}
BALLOT_VECTORIZED void backward_rows(const float* __restrict x, const float* __restrict inverse_rms,
                                     const float* __restrict gain, const float* __restrict dy,
                                     std::int64_t rows, std::int64_t cols, bool accumulate,
                                     float* __restrict dx, bfloat16* __restrict dx_rounded,
                                     bfloat16* __restrict y, float* __restrict partial) {
  backward_body(x, inverse_rms, gain, dy, rows, cols, accumulate, dx, dx_rounded, y, partial);
}

BALLOT_VECTORIZED void add_partials(const float* __restrict partials, std::int64_t pieces,
                                    std::int64_t cols, bool accumulate, float* __restrict dgain) {
  if (!accumulate)
    for (std::int64_t c = 0; c < cols; ++c) dgain[c] = 0;
  for (std::int64_t i = 0; i < pieces; ++i, partials += cols)
    for (std::int64_t c = 0; c < cols; ++c) dgain[c] += partials[c];
}

template <class T>
T* at_row(const Tensor& x, std::int64_t row) {
  return x.data == nullptr ? nullptr : x.as<T>() + row * x.extent[1];
}

std::int64_t piece_count(std::int64_t rows) {
  return (rows + kPieceRows - 1) / kPieceRows;
}

}  // namespace

void rms_norm(const Tensor& x, const Tensor& addend, const Tensor& gain, float epsilon,
              const Tensor& y, float* inverse_rms, Stream& stream) {
  const std::int64_t cols = x.extent[1];
  require(x.is_contiguous() && y.is_contiguous() && gain.count() == cols &&
              y.count() == x.count() &&
              (addend.data == nullptr || (addend.count() == x.count() && addend.is_contiguous())),
          "rms_norm of {} with a gain {} into {}", x.describe(), gain.describe(), y.describe());
  if (x.device.kind == Device::Kind::cuda)
    return cuda_model_ops().rms_norm(x, addend, gain, epsilon, y, inverse_rms, stream);
  parallel_for(x.extent[0], 8, [&](std::int64_t begin, std::int64_t end) {
    const auto rows = [&](auto* target) {
      forward_rows(at_row<float>(x, begin), at_row<float>(addend, begin), gain.f32(), epsilon,
                   end - begin, cols, target, inverse_rms + begin);
    };
    if (y.type == DType::f32)
      rows(at_row<float>(y, begin));
    else
      rows(at_row<bfloat16>(y, begin));
  });
}

void rms_norm_backward(const Tensor& x, const float* inverse_rms, const Tensor& gain,
                       const Tensor& dy, const RmsNormGradient& gradient, float* partials,
                       Stream& stream) {
  const std::int64_t rows = x.extent[0];
  const std::int64_t cols = x.extent[1];
  require(x.is_contiguous() && dy.is_contiguous() && gradient.dx.is_contiguous() &&
              dy.count() == x.count() && gradient.dx.count() == x.count() && gain.count() == cols &&
              gradient.dgain.count() == cols,
          "rms_norm_backward of {} and {} into {}", x.describe(), dy.describe(),
          gradient.dx.describe());
  if (x.device.kind == Device::Kind::cuda)
    return cuda_model_ops().rms_norm_backward(x, inverse_rms, gain, dy, gradient, partials, stream);
  parallel_for(piece_count(rows), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t piece = first; piece < last; ++piece) {
      const std::int64_t begin = piece * kPieceRows;
      const std::int64_t count = std::min(kPieceRows, rows - begin);
      const auto run = [&](auto* y) {
        backward_rows(at_row<float>(x, begin), inverse_rms + begin, gain.f32(),
                      at_row<float>(dy, begin), count, cols, gradient.accumulate == Accumulate::yes,
                      at_row<float>(gradient.dx, begin),
                      at_row<bfloat16>(gradient.dx_rounded, begin), y, partials + piece * cols);
      };
      if (gradient.y.data != nullptr && gradient.y.type == DType::bf16)
        run(at_row<bfloat16>(gradient.y, begin));
      else
        run(at_row<float>(gradient.y, begin));
    }
  });
  add_partials(partials, piece_count(rows), cols, gradient.accumulate_gain == Accumulate::yes,
               gradient.dgain.f32());
}

std::int64_t rms_norm_partials(std::int64_t rows, std::int64_t cols, Device device) {
  if (device.kind == Device::Kind::cuda) return cuda_model_ops().rms_norm_partials(rows, cols);
  return piece_count(rows) * cols;
}

}  // namespace ballot
