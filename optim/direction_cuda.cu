// Momentum and interpolation in one pass, with the bits of direction.cpp.
//
// 16 bytes move per element with f32 momentum (gradient and momentum in, momentum and direction
// out), 12 with bf16: at 3.35 TB/s a billion parameters take 4.8 or 3.6 ms. Where Newton-Schulz
// follows, the same pass adds up the direction's squares, in the order of square_sum.cpp: sixteen
// threads a row, whose sixteen running sums they are. That spares reading it once more (1.2 ms).
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include <algorithm>

#include "collectives/row_squares_cuda.h"
#include "core/cuda/cuda_stream.h"
#include "core/cuda/is_finite.h"
#include "optim/optim_cuda.h"

namespace ballot {
namespace kernels {

constexpr int kThreads = 256;
constexpr int kElements = 8;  // of a thread: whole 16-byte packs of every type

template <class T>
__device__ __forceinline__ void absorb_element(const MomentumWeights& w, float g, T& m, float& u) {
  const float old = to_float(m);
  const float now = w.keep * old + w.absorb * g;
  m = from_float<T>(now);
  // With bf16 momentum u reads the new M before it is rounded for storage.
  u = w.old_momentum ? w.from_momentum * old + w.from_gradient * g
                     : w.from_gradient * g + w.from_momentum * now;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    absorb_gradient(MomentumWeights w, std::int64_t count, const float* gradient, T* momentum,
                    float* direction, const double* gate) {
  if (gate != nullptr && !is_finite(*gate)) return;
  constexpr int kFloats = Pack<float>::kCount, kMoments = Pack<T>::kCount;
  const std::int64_t first = global_thread() * kElements;
  if (first + kElements <= count) {
    Pack<float> g[kElements / kFloats], u[kElements / kFloats];
    Pack<T> m[kElements / kMoments];
    for (int k = 0; k < kElements / kFloats; ++k) g[k] = load_pack(gradient + first + k * kFloats);
    for (int k = 0; k < kElements / kMoments; ++k)
      m[k] = load_pack(momentum + first + k * kMoments);
    for (int i = 0; i < kElements; ++i)
      absorb_element(w, g[i / kFloats].value[i % kFloats], m[i / kMoments].value[i % kMoments],
                     u[i / kFloats].value[i % kFloats]);
    for (int k = 0; k < kElements / kMoments; ++k)
      store_pack(momentum + first + k * kMoments, m[k]);
    for (int k = 0; k < kElements / kFloats; ++k) store_pack(direction + first + k * kFloats, u[k]);
  } else {
    for (std::int64_t i = first; i < count; ++i)
      absorb_element(w, gradient[i], momentum[i], direction[i]);
  }
}

// A row for each half of a warp; all lanes stay, for the shuffles.
template <class T>
__global__ void __launch_bounds__(kThreads)
    absorb_rows(MomentumWeights w, const float* gradient, T* momentum, float* direction,
                std::int64_t stride, std::int64_t rows, std::int64_t cols, const double* gate,
                double* row_sums) {
  constexpr int kUnroll = 8;  // elements that a thread has under way
  const std::int64_t row = global_thread() / kRowLanes;
  const bool real = row < rows && (gate == nullptr || is_finite(*gate));
  const std::int64_t count = real ? cols : 0, whole = count / kRowLanes * kRowLanes;
  const int lane = lane_index() % kRowLanes, half = lane_index() - lane;
  const float* const g = gradient + (real ? row * stride : 0);
  T* const m = momentum + (real ? row * stride : 0);
  float* const u = direction + (real ? row * stride : 0);
  double sum = 0;
  std::int64_t i = lane;
  for (; i + (kUnroll - 1) * kRowLanes < whole; i += kUnroll * kRowLanes) {
    float from[kUnroll], to[kUnroll];
    T moment[kUnroll];
    for (int k = 0; k < kUnroll; ++k) from[k] = g[i + k * kRowLanes];
    for (int k = 0; k < kUnroll; ++k) moment[k] = m[i + k * kRowLanes];
    for (int k = 0; k < kUnroll; ++k) {
      absorb_element(w, from[k], moment[k], to[k]);
      m[i + k * kRowLanes] = moment[k];
      u[i + k * kRowLanes] = to[k];
      sum += static_cast<double>(to[k]) * static_cast<double>(to[k]);
    }
  }
  for (; i < whole; i += kRowLanes) {
    float to;
    absorb_element(w, g[i], m[i], to);
    u[i] = to;
    sum += static_cast<double>(to) * static_cast<double>(to);
  }
  // What is left of the row has a lane each, and is added last, in order.
  float last = 0;
  if (whole + lane < count) {
    absorb_element(w, g[whole + lane], m[whole + lane], last);
    u[whole + lane] = last;
  }
  sum += __shfl_xor_sync(kFullWarp, sum, kRowLanes / 2);
  double total = 0;
  for (int k = 0; k < kRowLanes / 2; ++k) total += __shfl_sync(kFullWarp, sum, half + k);
  for (int k = 0; k < kRowLanes; ++k) {
    const auto x = static_cast<double>(__shfl_sync(kFullWarp, last, half + k));
    if (whole + k < count) total += x * x;
  }
  if (real && lane == 0) row_sums[row] = total;
}

}  // namespace kernels

void PluginOptim::absorb_and_sum(const MomentumWeights& weights, const Tensor& gradient,
                                 const Tensor& momentum, const Tensor& direction,
                                 const double* gate, double* square_sum, double* row_sums,
                                 Stream& stream) {
  const std::int64_t rows = gradient.extent[0], cols = gradient.extent[1];
  const std::int64_t stride = gradient.stride[0];
  constexpr std::int64_t kRowsOfBlock = kernels::kThreads / kRowLanes;
  const auto blocks = static_cast<unsigned>((rows + kRowsOfBlock - 1) / kRowsOfBlock);
  if (momentum.type == DType::f32)
    launch(kernels::absorb_rows<float>, blocks, kernels::kThreads, 0, stream_of(stream), weights,
           gradient.f32(), momentum.f32(), direction.f32(), stride, rows, cols, gate, row_sums);
  else
    launch(kernels::absorb_rows<bfloat16>, blocks, kernels::kThreads, 0, stream_of(stream), weights,
           gradient.f32(), momentum.bf16(), direction.f32(), stride, rows, cols, gate, row_sums);
  sum_rows(row_sums, rows, square_sum, stream);
}

void PluginOptim::absorb(const MomentumWeights& weights, std::int64_t count, const float* gradient,
                         const Tensor& momentum, float* direction, const double* gate,
                         Stream& stream) {
  if (count == 0) return;
  const std::int64_t per_block = kernels::kThreads * kernels::kElements;
  const auto blocks = static_cast<unsigned>((count + per_block - 1) / per_block);
  if (momentum.type == DType::f32)
    launch(kernels::absorb_gradient<float>, blocks, kernels::kThreads, 0, stream_of(stream),
           weights, count, gradient, momentum.f32(), direction, gate);
  else
    launch(kernels::absorb_gradient<bfloat16>, blocks, kernels::kThreads, 0, stream_of(stream),
           weights, count, gradient, momentum.bf16(), direction, gate);
}

}  // namespace ballot
