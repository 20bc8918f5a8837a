// SwiGLU on CUDA: a block for each row, 16 bytes of each operand a thread.
//
// Bound by memory. Per element of act in bf16 forward moves 6 bytes (up 2, gate 2, act 2) and
// backward 12 (all three in and out): 1.8 and 3.6 us per million at 3.35 TB/s; twice that in f32.
#include "core/cuda/kernel.h"
// kernel.h first: see its rules.
#include "core/cuda/cuda_stream.h"
#include "models/ops/model_ops_cuda.h"
#include "models/ops/vector_cuda.h"

namespace ballot {
namespace kernels {

constexpr int kSwigluThreads = 256;

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kSwigluThreads)
    swiglu_forward(const T* up_gate, T* act, std::int64_t cols) {
  up_gate += blockIdx.x * 2 * cols;
  act += blockIdx.x * cols;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * kWidth;
  for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x) * kWidth; c < cols; c += step) {
    float up[kWidth], gate[kWidth];
    load(up_gate + c, up);
    load(up_gate + cols + c, gate);
    BALLOT_UNROLL
    for (int i = 0; i < kWidth; ++i) up[i] *= gate[i] * sigmoid(gate[i]);
    store(act + c, up);
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kSwigluThreads)
    swiglu_gradient(T* up_gate, T* act, std::int64_t cols) {
  up_gate += blockIdx.x * 2 * cols;
  act += blockIdx.x * cols;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * kWidth;
  for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x) * kWidth; c < cols; c += step) {
    float up[kWidth], gate[kWidth], d[kWidth];
    load(up_gate + c, up);
    load(up_gate + cols + c, gate);
    load(act + c, d);
    BALLOT_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      const float s = sigmoid(gate[i]);
      const float silu = gate[i] * s;
      gate[i] = d[i] * up[i] * (s + silu * (1.0f - s));
      const float dup = d[i] * silu;
      d[i] = silu * up[i];
      up[i] = dup;
    }
    store(up_gate + c, up);
    store(up_gate + cols + c, gate);
    store(act + c, d);
  }
}

}  // namespace kernels

namespace {

// body(T*, width) for the tensors' type and alignment.
template <class Body>
void with_rows(const Tensor& up_gate, const Tensor& act, const Body& body) {
  with_type(act.type, [&]<class T>(T* none) {
    constexpr int kWidth = 16 / sizeof(T);
    with_width<kWidth>(moves_by(kWidth, act.extent[1], up_gate.as<T>(), act.as<T>()),
                       [&](auto width) { body(none, width); });
  });
}

}  // namespace

void PluginModelOps::swiglu(const Tensor& up_gate, const Tensor& act, Stream& stream) {
  if (act.count() == 0) return;
  const std::int64_t rows = act.extent[0], cols = act.extent[1];
  with_rows(up_gate, act, [&]<class T>(T*, auto width) {
    launch(kernels::swiglu_forward<T, width()>, static_cast<unsigned>(rows),
           threads_for(cols / width(), kernels::kSwigluThreads), 0, stream_of(stream),
           up_gate.as<T>(), act.as<T>(), cols);
  });
}

void PluginModelOps::swiglu_backward(const Tensor& up_gate, const Tensor& act, Stream& stream) {
  if (act.count() == 0) return;
  const std::int64_t rows = act.extent[0], cols = act.extent[1];
  with_rows(up_gate, act, [&]<class T>(T*, auto width) {
    launch(kernels::swiglu_gradient<T, width()>, static_cast<unsigned>(rows),
           threads_for(cols / width(), kernels::kSwigluThreads), 0, stream_of(stream),
           up_gate.as<T>(), act.as<T>(), cols);
  });
}

}  // namespace ballot
