// Momentum and interpolation in one pass, with the bits of direction.cpp.
//
// 16 bytes move per element with f32 momentum (gradient and momentum in, momentum and direction
// out), 12 with bf16: at 3.35 TB/s a billion parameters take 4.8 or 3.6 ms.
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include <algorithm>

#include "core/cuda/cuda_stream.h"
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
                    float* direction) {
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

}  // namespace kernels

void PluginOptim::absorb(const MomentumWeights& weights, std::int64_t count, const float* gradient,
                         const Tensor& momentum, float* direction, Stream& stream) {
  if (count == 0) return;
  const std::int64_t per_block = kernels::kThreads * kernels::kElements;
  const auto blocks = static_cast<unsigned>((count + per_block - 1) / per_block);
  if (momentum.type == DType::f32)
    launch(kernels::absorb_gradient<float>, blocks, kernels::kThreads, 0, stream_of(stream),
           weights, count, gradient, momentum.f32(), direction);
  else
    launch(kernels::absorb_gradient<bfloat16>, blocks, kernels::kThreads, 0, stream_of(stream),
           weights, count, gradient, momentum.bf16(), direction);
}

}  // namespace ballot
