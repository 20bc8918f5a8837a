// What every kernel file (*_cuda.cu) includes: shared memory, launch, and the small device
// functions that kernels have in common. The same source is compiled by nvcc, and by g++ with
// -DBALLOT_SIMT for the tests (tests/cuda/simt), where every CUDA thread is a fiber.
//
// RULES, so that all executors can run a kernel (tests/cuda/kernel_rules greps most of them):
//  - This is the first include of a kernel file: see the name `ballot` below.
//  - Kernels are `__global__ void __launch_bounds__(n) name(...)` in namespace ballot::kernels (not
//    in an unnamed one: the tests find a kernel's PTX by its mangled name), parameters by value.
//  - Launch by launch() below; no <<<>>>, no cudaLaunchKernel elsewhere.
//  - Shared memory by BALLOT_SHARED and BALLOT_DYNAMIC_SHARED; it holds rubbish at first. A pointer
//    to it is never kept beyond its kernel.
//  - The block is one-dimensional, a multiple of 32 threads, at most 1024.
//  - __syncthreads() is reached by all threads of the block or by none, at the same line; warp
//    functions by all lanes of their mask, which is always written out (kFullWarp). So no early
//    return before one: let the surplus threads work on nothing instead. A thread that has returned
//    may be missing from no mask and from no barrier.
//  - Lanes or threads that hand each other data through memory have a __syncwarp() or a
//    __syncthreads() between, also before the memory is used again. Blocks hand each other nothing
//    within a launch but by atomics.
//  - Element indices are std::int64_t: global_thread(), grid_threads().
//  - No inline asm, cooperative groups, wmma, textures, device printf, managed memory, recursion,
//    or waiting for another block. Atomics: atomicAdd, atomicOr, atomicAnd, atomicMax, atomicMin,
//    atomicExch, atomicCAS; of floats only atomicAdd, and then the sum depends on the order.
//  - min and max are std::min, std::max (of one type); constexpr host functions may be called.
//  - Where the CPU's very bits are asked for, the file is compiled with -fmad=false and uses no
//    __expf and the like; division and sqrtf are IEEE's.
#pragma once

// CUDA's sm_20_intrinsics.h declares a function `ballot` that our namespace would clash with. nvcc
// reads that header before the first line of a file, so kernel files are compiled with
// -Dballot=ballot_of_cuda, and from here on the word is ours.
#undef ballot

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/bfloat16.h"  // bfloat16

#ifdef BALLOT_SIMT
#include "simt/device.h"  // threadIdx, __syncthreads, ... and launch as ordinary functions
#else

#include <string>
#include <tuple>

#include "core/error.h"  // LogicError

// T name[N]: one for the block, of the lifetime of the block.
#define BALLOT_SHARED(T, name, N) __shared__ T name[N]
// T* name: the shared_bytes given to launch, aligned to 16 bytes. The same memory wherever it is
// written in a kernel; carve it by pointer arithmetic.
#define BALLOT_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char ballot_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(ballot_dynamic_shared)

namespace ballot {

[[noreturn]] inline void throw_launch_failure(cudaError_t code, const void* kernel, dim3 grid,
                                              dim3 block, std::size_t shared_bytes) {
  const char* name = nullptr;
  if (cudaFuncGetName(&name, kernel) != cudaSuccess || name == nullptr) name = "of unknown name";
  const auto shape = [](dim3 d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) +
           ")";
  };
  throw LogicError("launch of kernel " + std::string(name) + " with grid " + shape(grid) +
                   ", block " + shape(block) + ", " + std::to_string(shared_bytes) +
                   " bytes of shared memory: " + cudaGetErrorName(code) + ", " +
                   cudaGetErrorString(code));
}

// Enqueues kernel(arguments...) on `stream`, asynchronously. Throws LogicError, naming kernel, grid
// and block, when the launch is refused, or when an earlier error of this thread was not looked at.
// An empty grid is refused: callers return early when there is nothing to do. More than 48 KiB of
// dynamic shared memory must have been allowed by cudaFuncSetAttribute.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
  void* pointers[sizeof...(Parameters) + 1] = {};
  std::apply(
      [&](auto&... value) {
        std::size_t i = 0;
        ((pointers[i++] = &value), ...);
      },
      values);
  const auto* address = reinterpret_cast<const void*>(kernel);
  cudaError_t code = cudaLaunchKernel(address, grid, block, pointers, shared_bytes, stream);
  if (code == cudaSuccess) code = cudaGetLastError();
  if (code != cudaSuccess) throw_launch_failure(code, address, grid, block, shared_bytes);
}

}  // namespace ballot
#endif

namespace ballot {

inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr int kWarpSize = 32;
inline constexpr int kMaxWarps = 32;  // of a block

// This thread's place among all threads of a one-dimensional grid of one-dimensional blocks, and
// how many there are: for (i = global_thread(); i < n; i += grid_threads()).
__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t grid_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}
__device__ __forceinline__ int lane_index() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}
__device__ __forceinline__ int warp_index() {
  return static_cast<int>(threadIdx.x) / kWarpSize;
}

// Reductions over the 32 lanes, every lane gets the result: always the same tree, so the same bits.
template <class T, class Combine>
__device__ __forceinline__ T warp_reduce(T x, Combine combine) {
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2)
    x = combine(x, __shfl_xor_sync(kFullWarp, x, lanes));
  return x;
}

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  return warp_reduce(x, Sum());
}
template <class T>
__device__ __forceinline__ T warp_max(T x) {
  return warp_reduce(x, Max());
}

// The same over all threads of a block; all of them must call it. Two barriers and five shuffles.
// Its shared memory is its own and may be used again at once. `empty` is what a missing warp
// counts.
template <class T, class Combine>
__device__ __forceinline__ T block_reduce(T x, T empty, Combine combine) {
  BALLOT_SHARED(T, partial, kMaxWarps);
  x = warp_reduce(x, combine);
  if (lane_index() == 0) partial[warp_index()] = x;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  x = lane_index() < warps ? partial[lane_index()] : empty;
  x = warp_reduce(x, combine);
  __syncthreads();  // the next call writes partial again
  return x;
}
template <class T>
__device__ __forceinline__ T block_sum(T x) {
  return block_reduce(x, T(0), Sum());
}
// Of floats; -infinity where there is nothing.
__device__ __forceinline__ float block_max(float x) {
  return block_reduce(x, -INFINITY, Max());
}

// 16 bytes of T (4 floats, 8 bfloat16) moved at once: the address must be a multiple of 16.
template <class T>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(T);
  T value[kCount];
};

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
#ifdef BALLOT_SIMT
  simt::require_aligned(from, 16, "load_pack");
  Pack<T> pack;
  std::memcpy(&pack, from, 16);
#else
  const uint4 raw = *reinterpret_cast<const uint4*>(from);
  Pack<T> pack;
  memcpy(&pack, &raw, 16);
#endif
  return pack;
}

template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
#ifdef BALLOT_SIMT
  simt::require_aligned(to, 16, "store_pack");
  std::memcpy(to, &pack, 16);
#else
  uint4 raw;
  memcpy(&raw, &pack, 16);
  *reinterpret_cast<uint4*>(to) = raw;
#endif
}

}  // namespace ballot
