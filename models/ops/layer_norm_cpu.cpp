// LayerNorm on the CPU: two passes over a row in cache forward, two backward.
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "models/ops/layer_norm.h"

namespace ballot {
namespace {

constexpr std::int64_t kPieceRows = 32;  // rows whose dgain and dbias are summed into one partial

template <class T>
[[gnu::always_inline]] inline void forward_body(float* __restrict x, const float* __restrict addend,
                                                const float* __restrict gain,
                                                const float* __restrict bias, float epsilon,
                                                std::int64_t rows, std::int64_t cols,
                                                T* __restrict y, float* __restrict moments) {
  const float share = 1.0f / static_cast<float>(cols);
  for (std::int64_t n = 0; n < rows; ++n, x += cols, y += cols) {
    float sum = 0;
    if (addend != nullptr) {
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < cols; ++c) {
        const float value = x[c] + addend[c];
        x[c] = value;
        sum += value;
      }
      addend += cols;
    } else {
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < cols; ++c) sum += x[c];
    }
    const float mean = sum * share;
    // Of differences: the difference of mean square and squared mean would cancel.
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t c = 0; c < cols; ++c) squares += (x[c] - mean) * (x[c] - mean);
    const float r = 1.0f / __builtin_sqrtf(squares * share + epsilon);
    moments[2 * n] = mean;
    moments[2 * n + 1] = r;
    for (std::int64_t c = 0; c < cols; ++c)
      y[c] = from_float<T>((x[c] - mean) * r * gain[c] + bias[c]);
  }
}

#define BALLOT_FORWARD_ROWS(T)                                                                    \
  BALLOT_VECTORIZED void forward_rows(float* __restrict x, const float* __restrict addend,        \
                                      const float* __restrict gain, const float* __restrict bias, \
                                      float epsilon, std::int64_t rows, std::int64_t cols,        \
                                      T* __restrict y, float* __restrict moments) {               \
    forward_body(x, addend, gain, bias, epsilon, rows, cols, y, moments);                         \
  }
BALLOT_FORWARD_ROWS(float)
BALLOT_FORWARD_ROWS(bfloat16)
#undef BALLOT_FORWARD_ROWS

// One piece of rows; `partial` (2, C) is overwritten with its parts of dgain and dbias.
template <class T>
[[gnu::always_inline]] inline void backward_body(
    const float* __restrict x, const float* __restrict moments, const float* __restrict gain,
    const float* __restrict bias, const float* __restrict dy, std::int64_t rows, std::int64_t cols,
    bool accumulate, float* __restrict dx, bfloat16* __restrict dx_rounded, T* __restrict y,
    float* __restrict partial) {
  float* __restrict dgain = partial;
  float* __restrict dbias = partial + cols;
  const float share = 1.0f / static_cast<float>(cols);
  for (std::int64_t c = 0; c < 2 * cols; ++c) partial[c] = 0;
  for (std::int64_t row = 0; row < rows; ++row, x += cols, dy += cols, dx += cols) {
    const float mean = moments[2 * row], r = moments[2 * row + 1];
    float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (std::int64_t c = 0; c < cols; ++c) {
      const float normal = (x[c] - mean) * r;
      sum += gain[c] * dy[c];
      dot += gain[c] * dy[c] * normal;
      dgain[c] += dy[c] * normal;
      dbias[c] += dy[c];
    }
    sum *= share;
    dot *= share;
    if (accumulate) {
      for (std::int64_t c = 0; c < cols; ++c)
        dx[c] += r * (gain[c] * dy[c] - sum - (x[c] - mean) * r * dot);
    } else {
      for (std::int64_t c = 0; c < cols; ++c)
        dx[c] = r * (gain[c] * dy[c] - sum - (x[c] - mean) * r * dot);
    }
    if (dx_rounded != nullptr) {
      for (std::int64_t c = 0; c < cols; ++c) dx_rounded[c] = to_bfloat16(dx[c]);
      dx_rounded += cols;
    }
    if (y != nullptr) {
      for (std::int64_t c = 0; c < cols; ++c)
        y[c] = from_float<T>((x[c] - mean) * r * gain[c] + bias[c]);
      y += cols;
    }
  }
}

#define BALLOT_BACKWARD_ROWS(T)                                                                 \
  BALLOT_VECTORIZED void backward_rows(                                                         \
      const float* __restrict x, const float* __restrict moments, const float* __restrict gain, \
      const float* __restrict bias, const float* __restrict dy, std::int64_t rows,              \
      std::int64_t cols, bool accumulate, float* __restrict dx, bfloat16* __restrict rounded,   \
      T* __restrict y, float* __restrict partial) {                                             \
    backward_body(x, moments, gain, bias, dy, rows, cols, accumulate, dx, rounded, y, partial); \
  }
BALLOT_BACKWARD_ROWS(float)
BALLOT_BACKWARD_ROWS(bfloat16)
#undef BALLOT_BACKWARD_ROWS

// Of each piece's 2 C floats, C from `partials` on.
BALLOT_VECTORIZED void add_partials(const float* __restrict partials, std::int64_t pieces,
                                    std::int64_t cols, bool accumulate, float* __restrict sum) {
  if (!accumulate)
    for (std::int64_t c = 0; c < cols; ++c) sum[c] = 0;
  for (std::int64_t i = 0; i < pieces; ++i, partials += 2 * cols)
    for (std::int64_t c = 0; c < cols; ++c) sum[c] += partials[c];
}

template <class T>
T* at_row(const Tensor& x, std::int64_t row) {
  return x.data == nullptr ? nullptr : x.as<T>() + row * x.extent[1];
}

std::int64_t piece_count(std::int64_t rows) {
  return (rows + kPieceRows - 1) / kPieceRows;
}

}  // namespace

void layer_norm(const Tensor& x, const Tensor& addend, const Tensor& gain, const Tensor& bias,
                float epsilon, const Tensor& y, float* moments) {
  const std::int64_t cols = x.extent[1];
  require(x.device.kind == Device::Kind::cpu && x.is_contiguous() && y.is_contiguous() &&
              gain.count() == cols && bias.count() == cols && y.count() == x.count() &&
              (addend.data == nullptr || (addend.count() == x.count() && addend.is_contiguous())),
          "layer_norm of {} with a gain {} and a bias {} into {}", x.describe(), gain.describe(),
          bias.describe(), y.describe());
  parallel_for(x.extent[0], 8, [&](std::int64_t begin, std::int64_t end) {
    const auto rows = [&](auto* target) {
      forward_rows(at_row<float>(x, begin), at_row<float>(addend, begin), gain.f32(), bias.f32(),
                   epsilon, end - begin, cols, target, moments + 2 * begin);
    };
    if (y.type == DType::f32)
      rows(at_row<float>(y, begin));
    else
      rows(at_row<bfloat16>(y, begin));
  });
}

void layer_norm_backward(const Tensor& x, const float* moments, const Tensor& gain,
                         const Tensor& bias, const Tensor& dy, const LayerNormGradient& gradient,
                         float* partials) {
  const std::int64_t rows = x.extent[0];
  const std::int64_t cols = x.extent[1];
  require(x.device.kind == Device::Kind::cpu && x.is_contiguous() && dy.is_contiguous() &&
              gradient.dx.is_contiguous() && dy.count() == x.count() &&
              gradient.dx.count() == x.count() && gain.count() == cols && bias.count() == cols,
          "layer_norm_backward of {} and {} into {}", x.describe(), dy.describe(),
          gradient.dx.describe());
  parallel_for(piece_count(rows), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t piece = first; piece < last; ++piece) {
      const std::int64_t begin = piece * kPieceRows;
      const std::int64_t count = std::min(kPieceRows, rows - begin);
      const auto run = [&](auto* y) {
        backward_rows(at_row<float>(x, begin), moments + 2 * begin, gain.f32(), bias.f32(),
                      at_row<float>(dy, begin), count, cols, gradient.accumulate == Accumulate::yes,
                      at_row<float>(gradient.dx, begin),
                      at_row<bfloat16>(gradient.dx_rounded, begin), y, partials + piece * 2 * cols);
      };
      if (gradient.y.data != nullptr && gradient.y.type == DType::bf16)
        run(at_row<bfloat16>(gradient.y, begin));
      else
        run(at_row<float>(gradient.y, begin));
    }
  });
  const bool accumulate = gradient.accumulate_affine == Accumulate::yes;
  if (gradient.dgain.data != nullptr)
    add_partials(partials, piece_count(rows), cols, accumulate, gradient.dgain.f32());
  if (gradient.dbias.data != nullptr)
    add_partials(partials + cols, piece_count(rows), cols, accumulate, gradient.dbias.f32());
}

std::int64_t layer_norm_partials(std::int64_t rows, std::int64_t cols) {
  return piece_count(rows) * 2 * cols;
}

}  // namespace ballot
