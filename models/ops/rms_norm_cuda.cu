// RMSNorm on CUDA: a block for each row forward, for each piece of 16 rows backward; a row is read
// once and stays in registers.
//
// Bound by memory. Forward moves 6 bytes per element with a bf16 output (x 4, y 2), with an addend
// 14 (4 read and 4 written more): at 3.35 TB/s 1.8 and 4.2 us per million elements. Backward moves
// x 4 + dy 4 + dx 8 (accumulating; else 4) + its bf16 copy 2 + y 2 = 20 bytes: 6.0 us per million.
#include "core/cuda/kernel.h"
// kernel.h first: see its rules.
#include <algorithm>

#include "core/cuda/cuda_stream.h"
#include "models/ops/model_ops_cuda.h"
#include "models/ops/vector_cuda.h"

namespace ballot {
namespace kernels {

constexpr int kRowThreads = 256;
constexpr std::int64_t kPieceRows = 16;  // rows whose gain gradient is summed into one partial
constexpr int kSumThreads = 512;

// A thread has the columns first + k step .. + kWidth for k = 0, 1, ...: at most kKeep of these
// vectors, kept in registers, or any number (kKeep = 0), read again when needed.
template <class T, int kWidth, int kKeep>
__global__ void __launch_bounds__(kRowThreads)
    rms_norm_forward(float* x, const float* addend, const float* gain, float epsilon,
                     std::int64_t cols, T* y, float* inverse_rms) {
  const std::int64_t row = blockIdx.x;
  x += row * cols;
  y += row * cols;
  if (addend != nullptr) addend += row * cols;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kWidth;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * kWidth;
  float kept[kKeep > 0 ? kKeep : 1][kWidth];
  float sum = 0;
  if constexpr (kKeep > 0) {
    BALLOT_UNROLL
    for (int k = 0; k < kKeep; ++k)
      if (first + k * step < cols) load(x + first + k * step, kept[k]);
    if (addend != nullptr) {
      float more[kKeep][kWidth];
      BALLOT_UNROLL
      for (int k = 0; k < kKeep; ++k)
        if (first + k * step < cols) load(addend + first + k * step, more[k]);
      BALLOT_UNROLL
      for (int k = 0; k < kKeep; ++k)
        if (first + k * step < cols) {
          BALLOT_UNROLL
          for (int i = 0; i < kWidth; ++i) kept[k][i] += more[k][i];
          store(x + first + k * step, kept[k]);
        }
    }
    BALLOT_UNROLL
    for (int k = 0; k < kKeep; ++k)
      if (first + k * step < cols) {
        BALLOT_UNROLL
        for (int i = 0; i < kWidth; ++i) sum += kept[k][i] * kept[k][i];
      }
  } else {
    for (std::int64_t c = first; c < cols; c += step) {
      load(x + c, kept[0]);
      if (addend != nullptr) {
        float more[kWidth];
        load(addend + c, more);
        BALLOT_UNROLL
        for (int i = 0; i < kWidth; ++i) kept[0][i] += more[i];
        store(x + c, kept[0]);
      }
      BALLOT_UNROLL
      for (int i = 0; i < kWidth; ++i) sum += kept[0][i] * kept[0][i];
    }
  }
  sum = block_sum(sum);
  const float r = 1.0f / sqrtf(sum / static_cast<float>(cols) + epsilon);
  if (threadIdx.x == 0) inverse_rms[row] = r;
  const auto write = [&](std::int64_t c, const float(&value)[kWidth]) {
    float g[kWidth], result[kWidth];
    load(gain + c, g);
    BALLOT_UNROLL
    for (int i = 0; i < kWidth; ++i) result[i] = value[i] * r * g[i];
    store(y + c, result);
  };
  if constexpr (kKeep > 0) {
    BALLOT_UNROLL
    for (int k = 0; k < kKeep; ++k)
      if (first + k * step < cols) write(first + k * step, kept[k]);
  } else {
    for (std::int64_t c = first; c < cols; c += step) {
      load(x + c, kept[0]);
      write(c, kept[0]);
    }
  }
}

// What both forms of the backward do with kWidth columns of a row.
template <class T, int kWidth>
struct RmsNormRow {
  std::int64_t begin;  // of the row
  float r, pull;
  bool accumulate;
  float* dx;
  bfloat16* dx_rounded;
  T* y;

  __device__ __forceinline__ void write(std::int64_t c, const float (&x)[kWidth],
                                        const float (&dy)[kWidth], const float (&gain)[kWidth],
                                        const float (&before)[kWidth]) const {
    float result[kWidth];
    BALLOT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      result[i] = r * (gain[i] * dy[i] - x[i] * pull);
      if (accumulate) result[i] += before[i];
    }
    store(dx + begin + c, result);
    if (dx_rounded != nullptr) store(dx_rounded + begin + c, result);
    if (y != nullptr) {
      BALLOT_UNROLL
      for (int i = 0; i < kWidth; ++i) result[i] = x[i] * r * gain[i];
      store(y + begin + c, result);
    }
  }
};

template <class T, int kWidth, int kKeep>
__global__ void __launch_bounds__(kRowThreads)
    rms_norm_gradient(const float* x, const float* inverse_rms, const float* gain, const float* dy,
                      std::int64_t rows, std::int64_t cols, bool accumulate, float* dx,
                      bfloat16* dx_rounded, T* y, float* partials) {
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kWidth;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * kWidth;
  const std::int64_t begin = blockIdx.x * kPieceRows;
  const std::int64_t end = std::min(rows, begin + kPieceRows);
  partials += blockIdx.x * cols;
  if constexpr (kKeep > 0) {
    float g[kKeep][kWidth], dgain[kKeep][kWidth];
    BALLOT_UNROLL
    for (int k = 0; k < kKeep; ++k) {
      BALLOT_UNROLL
      for (int i = 0; i < kWidth; ++i) dgain[k][i] = 0;
      if (first + k * step < cols) load(gain + first + k * step, g[k]);
    }
    for (std::int64_t n = begin; n < end; ++n) {
      const float r = inverse_rms[n];
      float row_x[kKeep][kWidth], row_dy[kKeep][kWidth], before[kKeep][kWidth];
      BALLOT_UNROLL
      for (int k = 0; k < kKeep; ++k)
        if (first + k * step < cols) {
          load(x + n * cols + first + k * step, row_x[k]);
          load(dy + n * cols + first + k * step, row_dy[k]);
          if (accumulate) load(dx + n * cols + first + k * step, before[k]);
        }
      float dot = 0;
      BALLOT_UNROLL
      for (int k = 0; k < kKeep; ++k)
        if (first + k * step < cols) {
          BALLOT_UNROLL
          for (int i = 0; i < kWidth; ++i) {
            const float product = row_dy[k][i] * row_x[k][i];
            dot += product * g[k][i];
            dgain[k][i] += product * r;
          }
        }
      dot = block_sum(dot);
      const RmsNormRow<T, kWidth> row{
          n * cols, r, dot * r * r / static_cast<float>(cols), accumulate, dx, dx_rounded, y};
      BALLOT_UNROLL
      for (int k = 0; k < kKeep; ++k)
        if (first + k * step < cols)
          row.write(first + k * step, row_x[k], row_dy[k], g[k], before[k]);
    }
    BALLOT_UNROLL
    for (int k = 0; k < kKeep; ++k)
      if (first + k * step < cols) store(partials + first + k * step, dgain[k]);
  } else {
    for (std::int64_t n = begin; n < end; ++n) {
      const float r = inverse_rms[n];
      float row_x[kWidth], row_dy[kWidth], g[kWidth], before[kWidth], dgain[kWidth];
      float dot = 0;
      for (std::int64_t c = first; c < cols; c += step) {
        load(x + n * cols + c, row_x);
        load(dy + n * cols + c, row_dy);
        load(gain + c, g);
        BALLOT_UNROLL
        for (int i = 0; i < kWidth; ++i) dgain[i] = 0;
        if (n > begin) load(partials + c, dgain);
        BALLOT_UNROLL
        for (int i = 0; i < kWidth; ++i) {
          const float product = row_dy[i] * row_x[i];
          dot += product * g[i];
          dgain[i] += product * r;
        }
        store(partials + c, dgain);
      }
      dot = block_sum(dot);
      const RmsNormRow<T, kWidth> row{
          n * cols, r, dot * r * r / static_cast<float>(cols), accumulate, dx, dx_rounded, y};
      for (std::int64_t c = first; c < cols; c += step) {
        load(x + n * cols + c, row_x);
        load(dy + n * cols + c, row_dy);
        load(gain + c, g);
        if (accumulate) load(dx + n * cols + c, before);
        row.write(c, row_x, row_dy, g, before);
      }
    }
  }
}

// dgain[c] = the sum of pieces[i][c] over i: a block for 32 columns, a warp for every 16th piece,
// and the warps' sums in order.
__global__ void __launch_bounds__(kSumThreads)
    sum_pieces(const float* pieces, std::int64_t count, std::int64_t cols, bool accumulate,
               float* dgain) {
  constexpr int kWarps = kSumThreads / kWarpSize;
  BALLOT_SHARED(float, partial, kSumThreads);
  const std::int64_t c = blockIdx.x * static_cast<std::int64_t>(kWarpSize) + lane_index();
  float sum = 0;
  if (c < cols) {
    BALLOT_UNROLL_BY_8
    for (std::int64_t i = warp_index(); i < count; i += kWarps) sum += pieces[i * cols + c];
  }
  partial[threadIdx.x] = sum;
  __syncthreads();
  if (warp_index() == 0 && c < cols) {
    for (int warp = 1; warp < kWarps; ++warp) sum += partial[warp * kWarpSize + lane_index()];
    dgain[c] = accumulate ? dgain[c] + sum : sum;
  }
}

}  // namespace kernels

namespace {

// body(width, keep) as integral constants: registers for rows up to 8192, without them beyond.
template <class Body>
void with_row(bool vectors, std::int64_t cols, const Body& body) {
  using std::integral_constant;
  const std::int64_t per_keep = kernels::kRowThreads * 4;
  if (!vectors)
    body(integral_constant<int, 1>(), integral_constant<int, 0>());
  else if (cols <= 2 * per_keep)
    body(integral_constant<int, 4>(), integral_constant<int, 2>());
  else if (cols <= 4 * per_keep)
    body(integral_constant<int, 4>(), integral_constant<int, 4>());
  else if (cols <= 8 * per_keep)
    body(integral_constant<int, 4>(), integral_constant<int, 8>());
  else
    body(integral_constant<int, 4>(), integral_constant<int, 0>());
}

std::int64_t piece_count(std::int64_t rows) {
  return (rows + kernels::kPieceRows - 1) / kernels::kPieceRows;
}

}  // namespace

void PluginModelOps::rms_norm(const Tensor& x, const Tensor& addend, const Tensor& gain,
                              float epsilon, const Tensor& y, float* inverse_rms, Stream& stream) {
  const std::int64_t rows = x.extent[0], cols = x.extent[1];
  if (x.count() == 0) return;
  const float* more = addend.data == nullptr ? nullptr : addend.f32();
  with_type(y.type, [&]<class T>(T*) {
    T* target = y.as<T>();
    with_row(moves_by(4, cols, x.f32(), more, gain.f32(), target), cols,
             [&](auto width, auto keep) {
               launch(kernels::rms_norm_forward<T, width(), keep()>, static_cast<unsigned>(rows),
                      threads_for(cols / width(), kernels::kRowThreads), 0, stream_of(stream),
                      x.f32(), more, gain.f32(), epsilon, cols, target, inverse_rms);
             });
  });
}

void PluginModelOps::rms_norm_backward(const Tensor& x, const float* inverse_rms,
                                       const Tensor& gain, const Tensor& dy,
                                       const RmsNormGradient& gradient, float* partials,
                                       Stream& stream) {
  const std::int64_t rows = x.extent[0], cols = x.extent[1];
  if (x.count() == 0) return;
  bfloat16* rounded = gradient.dx_rounded.data == nullptr ? nullptr : gradient.dx_rounded.bf16();
  with_type(gradient.y.type, [&]<class T>(T*) {
    T* y = gradient.y.data == nullptr ? nullptr : gradient.y.as<T>();
    const bool vectors =
        moves_by(4, cols, x.f32(), gain.f32(), dy.f32(), gradient.dx.f32(), rounded, y, partials);
    with_row(vectors, cols, [&](auto width, auto keep) {
      launch(kernels::rms_norm_gradient<T, width(), keep()>,
             static_cast<unsigned>(piece_count(rows)),
             threads_for(cols / width(), kernels::kRowThreads), 0, stream_of(stream), x.f32(),
             inverse_rms, gain.f32(), dy.f32(), rows, cols, gradient.accumulate == Accumulate::yes,
             gradient.dx.f32(), rounded, y, partials);
    });
  });
  launch(kernels::sum_pieces, static_cast<unsigned>((cols + kWarpSize - 1) / kWarpSize),
         kernels::kSumThreads, 0, stream_of(stream), partials, piece_count(rows), cols,
         gradient.accumulate_gain == Accumulate::yes, gradient.dgain.f32());
}

std::int64_t PluginModelOps::rms_norm_partials(std::int64_t rows, std::int64_t cols) {
  return piece_count(rows) * cols;
}

}  // namespace ballot
