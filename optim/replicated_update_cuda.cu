// One pass over a parameter: decay, step, what products read, digest, with the bits of
// replicated_update.cpp.
//
// Bytes per element, and a billion parameters at 3.35 TB/s:
//   apply_verdict     8.125 (value in and out, one bit)            2.4 ms
//   apply_direction   12                                           3.6 ms
//   apply_adamw       28 (two moments too, and the gradient)       8.4 ms
//   apply_decay       8, or 4 where only the digest is wanted      2.4 or 1.2 ms
// and 2 more (0.6 ms) where products read bf16. The digest costs some ten integer operations an
// element and no bytes.
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include <algorithm>

#include "core/cuda/cuda_stream.h"
#include "optim/digest_mix.h"
#include "optim/optim_cuda.h"

namespace ballot {
namespace kernels {

constexpr int kThreads = 256;
constexpr int kQuad = 4;                // elements of 16 bytes
constexpr int kUnroll = 2;              // quads of a thread under way
constexpr unsigned kMostBlocks = 2048;  // each ends with one atomic addition to the digest

struct Walk {
  float* value;
  bfloat16* compute;  // null: products read the value
  std::int64_t cols, row_stride, extent;
  std::uint64_t index;  // of the first element in the arena
  std::uint64_t* digest;
};

__device__ __forceinline__ float decayed(float p, float decay) {
  // p - 0 p would turn -0 into +0.
  return decay == 0 ? p : p - decay * p;
}

// What a pass makes of an element; each reads and writes what else it has of the quad at `first`.
struct VerdictStep {
  static constexpr bool kWrites = true;
  DeviceVerdict verdict;
  int block_shift;  // of words
  struct Quad {
    unsigned negative, held;  // four bits
  };
  __device__ __forceinline__ Quad load(std::int64_t first) const {
    const std::int64_t word = first / 64;
    const int shift = static_cast<int>(first % 64);
    const std::int64_t block = verdict.first_block + (word >> block_shift);
    Quad quad;
    quad.negative = static_cast<unsigned>(verdict.negative[word] >> shift) & 15u;
    quad.held = verdict.held_elements == nullptr
                    ? 0u
                    : static_cast<unsigned>(verdict.held_elements[word] >> shift) & 15u;
    if ((verdict.held_blocks[block / 64] >> (block % 64)) & 1u) quad.held = 15u;
    return quad;
  }
  __device__ __forceinline__ float apply(float p, const Quad& quad, int i) const {
    const float step = (quad.negative >> i) & 1u ? -verdict.step : verdict.step;
    // A held element subtracts +0, which changes no bit.
    return decayed(p, verdict.decay) - ((quad.held >> i) & 1u ? 0.0f : step);
  }
  __device__ __forceinline__ void store(std::int64_t, const Quad&) const {}
};

struct DirectionStep {
  static constexpr bool kWrites = true;
  const float* direction;
  float decay, step;
  using Quad = Pack<float>;
  __device__ __forceinline__ Quad load(std::int64_t first) const {
    return load_pack(direction + first);
  }
  __device__ __forceinline__ float apply(float p, const Quad& quad, int i) const {
    return decayed(p, decay) - step * quad.value[i];
  }
  __device__ __forceinline__ void store(std::int64_t, const Quad&) const {}
};

struct AdamStep {
  static constexpr bool kWrites = true;
  AdamFactors f;
  const float* gradient;
  float* first_moment;
  float* second_moment;
  struct Quad {
    Pack<float> g, m, v;
  };
  __device__ __forceinline__ Quad load(std::int64_t first) const {
    return {load_pack(gradient + first), load_pack(first_moment + first),
            load_pack(second_moment + first)};
  }
  __device__ __forceinline__ float apply(float p, Quad& quad, int i) const {
    const float g = quad.g.value[i];
    const float m = quad.m.value[i] = f.keep1 * quad.m.value[i] + f.absorb1 * g;
    const float v = quad.v.value[i] = f.keep2 * quad.v.value[i] + f.absorb2 * (g * g);
    return decayed(p, f.decay) - f.step * m / (sqrtf(v) / f.root + f.epsilon);
  }
  __device__ __forceinline__ void store(std::int64_t first, const Quad& quad) const {
    store_pack(first_moment + first, quad.m);
    store_pack(second_moment + first, quad.v);
  }
};

template <bool kDecays>
struct DecayStep {
  static constexpr bool kWrites = kDecays;
  float decay;
  struct Quad {};
  __device__ __forceinline__ Quad load(std::int64_t) const { return {}; }
  __device__ __forceinline__ float apply(float p, Quad&, int) const { return decayed(p, decay); }
  __device__ __forceinline__ void store(std::int64_t, const Quad&) const {}
};

// A thread has a quad at a time; padding (not with kWhole: rows without any) keeps its zeros and is
// not in the digest.
template <class Step, bool kWhole>
__global__ void __launch_bounds__(kThreads) apply_step(Walk walk, Step step) {
  const std::int64_t quads = walk.extent / kQuad, stride = grid_threads();
  std::uint64_t digest = 0;
  for (std::int64_t base = global_thread(); base < quads; base += kUnroll * stride) {
    Pack<float> p[kUnroll];
    typename Step::Quad input[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t first = (base + u * stride) * kQuad;
      if (first >= walk.extent) continue;
      p[u] = load_pack(walk.value + first);
      input[u] = step.load(first);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t first = (base + u * stride) * kQuad;
      if (first >= walk.extent) continue;
      const std::int64_t real =
          kWhole ? kQuad : std::clamp<std::int64_t>(walk.cols - first % walk.row_stride, 0, kQuad);
      std::uint64_t start = (walk.index + static_cast<std::uint64_t>(first)) * kDigestIndexFactor;
      alignas(8) bfloat16 rounded[kQuad] = {};
#pragma unroll
      for (int i = 0; i < kQuad; ++i, start += kDigestIndexFactor) {
        if (!kWhole && i >= real) continue;
        p[u].value[i] = step.apply(p[u].value[i], input[u], i);
        rounded[i] = to_bfloat16(p[u].value[i]);
        digest += mix_digest(__float_as_uint(p[u].value[i]), start);
      }
      step.store(first, input[u]);
      if (Step::kWrites) store_pack(walk.value + first, p[u]);
      if (walk.compute != nullptr)
        *reinterpret_cast<uint2*>(walk.compute + first) = *reinterpret_cast<const uint2*>(rounded);
    }
  }
  digest = block_sum(digest);
  if (threadIdx.x == 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(walk.digest),
              static_cast<unsigned long long>(digest));
}

}  // namespace kernels

namespace {

template <class Step>
void apply(const Step& step, const Parameter& parameter, std::uint64_t* digest, Stream& stream) {
  const kernels::Walk walk{
      parameter.value.f32(),
      parameter.compute.type == DType::bf16 ? parameter.compute.bf16() : nullptr,
      parameter.shape.cols,
      parameter.row_stride,
      parameter.extent(),
      static_cast<std::uint64_t>(parameter.offset),
      digest};
  const std::int64_t per_block = kernels::kThreads * kernels::kQuad * kernels::kUnroll;
  const auto blocks = static_cast<unsigned>(
      std::min<std::int64_t>((walk.extent + per_block - 1) / per_block, kernels::kMostBlocks));
  const auto kernel = walk.cols == walk.row_stride ? kernels::apply_step<Step, true>
                                                   : kernels::apply_step<Step, false>;
  launch(kernel, blocks, kernels::kThreads, 0, stream_of(stream), walk, step);
}

}  // namespace

void PluginOptim::apply_verdict(const DeviceVerdict& verdict, const Parameter& parameter,
                                std::uint64_t* digest, Stream& stream) {
  int block_shift = 0;
  while ((std::int64_t{64} << block_shift) < verdict.block) ++block_shift;
  apply(kernels::VerdictStep{verdict, block_shift}, parameter, digest, stream);
}

void PluginOptim::apply_direction(const float* direction, float decay, float step,
                                  const Parameter& parameter, std::uint64_t* digest,
                                  Stream& stream) {
  apply(kernels::DirectionStep{direction, decay, step}, parameter, digest, stream);
}

void PluginOptim::apply_adamw(const AdamFactors& factors, const float* gradient, float* first,
                              float* second, const Parameter& parameter, std::uint64_t* digest,
                              Stream& stream) {
  apply(kernels::AdamStep{factors, gradient, first, second}, parameter, digest, stream);
}

void PluginOptim::apply_decay(float decay, const Parameter& parameter, std::uint64_t* digest,
                              Stream& stream) {
  if (decay == 0)
    apply(kernels::DecayStep<false>{decay}, parameter, digest, stream);
  else
    apply(kernels::DecayStep<true>{decay}, parameter, digest, stream);
}

}  // namespace ballot
