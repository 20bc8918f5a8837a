// Kernels for the tests of the executors: right ones and wrong ones, one mistake each.
//
// simt_test.cpp runs them as g++ compiles them, ptx_kernels_test.cpp as nvcc does.
#pragma once

#include "core/cuda/kernel.h"

#include <algorithm>

namespace ballot::kernels {

__global__ void __launch_bounds__(256) pack_signs(const float* x, unsigned* words, std::int64_t n) {
  const std::int64_t i = global_thread();
  const unsigned word = __ballot_sync(kFullWarp, i < n && std::signbit(x[i]));
  if (lane_index() == 0 && i < n) words[i / 32] = word;
}

__global__ void __launch_bounds__(1024)
    row_sums(const float* x, float* sums, float* tops, std::int64_t columns) {
  float sum = 0;
  float top = -INFINITY;
  for (std::int64_t i = threadIdx.x; i < columns; i += blockDim.x) {
    sum += x[blockIdx.x * columns + i];
    top = std::max(top, x[blockIdx.x * columns + i]);
  }
  sum = block_sum(sum);
  top = block_max(top);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
    tops[blockIdx.x] = top;
  }
}

// Column c of the result: what one warp function gives each lane.
__global__ void __launch_bounds__(32) warp_functions(int* result) {
  const int lane = lane_index();
  int* to = result;
  const auto put = [&](int x) {
    to[lane] = x;
    to += 32;
  };
  put(__shfl_sync(kFullWarp, lane * 10, 5));
  put(__shfl_sync(kFullWarp, lane * 10, 3, 8));
  put(__shfl_up_sync(kFullWarp, lane, 2u));
  put(__shfl_down_sync(kFullWarp, lane, 3u, 16));
  put(__shfl_xor_sync(kFullWarp, lane, 31));
  put(static_cast<int>(__shfl_sync(kFullWarp, std::int64_t{lane} << 40, 7) >> 40));
  put(static_cast<int>(__shfl_sync(kFullWarp, lane + 0.5, 9) * 2));
  put(static_cast<int>(__ballot_sync(kFullWarp, lane % 3 == 0)));
  put(__any_sync(kFullWarp, lane == 31));
  put(__all_sync(kFullWarp, lane < 31));
  put(__reduce_max_sync(kFullWarp, lane - 40));
  put(static_cast<int>(__reduce_add_sync(kFullWarp, static_cast<unsigned>(lane))));
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  put(static_cast<int>(__popc(__ballot_sync(half, lane >= 16))));
  put(static_cast<int>(__match_any_sync(kFullWarp, lane / 8)));
}

__global__ void __launch_bounds__(128) histogram(const int* x, int* counts, std::int64_t n) {
  BALLOT_DYNAMIC_SHARED(int, mine);
  if (threadIdx.x < 16) mine[threadIdx.x] = 0;
  __syncthreads();
  for (std::int64_t i = global_thread(); i < n; i += grid_threads()) atomicAdd(&mine[x[i]], 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);
}

__global__ void __launch_bounds__(64) visit(int* visits) {
  const std::int64_t block =
      (std::int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  ++visits[block * blockDim.x + threadIdx.x];
}

__global__ void __launch_bounds__(32) copy_packs(const float* from, float* to) {
  store_pack(to + threadIdx.x * 4, load_pack(from + threadIdx.x * 4));
}

// Wrong ones.

__global__ void __launch_bounds__(256) no_barrier_before_read(float* out) {
  BALLOT_SHARED(float, values, 256);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = values[255 - threadIdx.x];
}

__global__ void __launch_bounds__(256) no_barrier_before_reuse(float* out) {
  BALLOT_SHARED(float, partial, 8);
  for (int round = 0; round < 4; ++round) {
    const float sum = warp_sum(static_cast<float>(round));
    if (lane_index() == 0) partial[warp_index()] = sum;
    __syncthreads();
    float all = 0;
    for (int i = 0; i < 8; ++i) all += partial[i];
    out[round * 256 + threadIdx.x] = all;
  }
}

__global__ void __launch_bounds__(64) barrier_of_some() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void __launch_bounds__(64) barriers_in_two_places() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void __launch_bounds__(64) barrier_in_uneven_loop() {
  for (unsigned i = 0; i < 1 + threadIdx.x / 32; ++i) __syncthreads();
}

__global__ void __launch_bounds__(32) vote_of_some(unsigned* out) {
  if (threadIdx.x % 2 == 0) out[threadIdx.x] = __ballot_sync(kFullWarp, 1);
  __syncwarp();
}

__global__ void __launch_bounds__(32) return_before_vote(unsigned* out, unsigned n) {
  if (threadIdx.x >= n) return;
  out[threadIdx.x] = __ballot_sync(kFullWarp, 1);
}

__global__ void __launch_bounds__(32) mask_without_self(unsigned* out) {
  out[threadIdx.x] = __ballot_sync(0xffffu, 1);
}

__global__ void __launch_bounds__(32) shuffle_from_outside(int* out) {
  const unsigned half = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
  out[threadIdx.x] = __shfl_xor_sync(half, static_cast<int>(threadIdx.x), 16);
}

__global__ void __launch_bounds__(32) shared_too_small() {
  BALLOT_SHARED(int, values, 30);
  int* all = values;  // hides the bound from the compiler
  all[threadIdx.x] = 1;
}

__global__ void __launch_bounds__(32) shared_unwritten(float* out) {
  BALLOT_SHARED(float, values, 32);
  if (threadIdx.x != 7) values[threadIdx.x] = 1;
  __syncwarp();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void __launch_bounds__(32) misaligned(const float* x, float* out) {
  const Pack<float> pack = load_pack(x + threadIdx.x);
  // All of it, or nvcc reads only what is used.
  out[threadIdx.x] = pack.value[0] + pack.value[1] + pack.value[2] + pack.value[3];
}

#ifdef BALLOT_SIMT
__global__ void __launch_bounds__(32) throws() {
  throw std::runtime_error("out of luck");
}
#endif

// Wrong in ways that the sanitizers see; the last two for some of what they are given.

__global__ void __launch_bounds__(32) shared_read_too_far(int* out) {
  BALLOT_SHARED(int, values, 32);
  int* all = values;
  all[threadIdx.x] = 1;
  __syncwarp();
  out[threadIdx.x] = all[threadIdx.x + 1];
}

__global__ void __launch_bounds__(32) local_array(int* out, int index) {
  int squares[4] = {0, 1, 4, 9};
  __syncwarp();  // on another fiber's stack in between
  int* all = squares;
  out[threadIdx.x] = all[index];
}

__global__ void __launch_bounds__(32) add_lane(int* x) {
  x[threadIdx.x] += lane_index();
}

// Wrong in ways that only the PTX interpreter sees.

__global__ void __launch_bounds__(64) add_without_atomic(int* sum) {
  *sum += 1;
}

__global__ void __launch_bounds__(64) all_write_one(int* to) {
  *to = 7;
}

__global__ void __launch_bounds__(64) atomic_and_plain(int* sum, int* out) {
  atomicAdd(sum, 1);
  if (threadIdx.x == 3) *out = *sum;
}

__global__ void __launch_bounds__(64) copy_one_too_far(const int* from, int* to, std::int64_t n) {
  const std::int64_t i = global_thread();
  if (i <= n) to[i] = from[i];
}

__global__ void __launch_bounds__(32) lanes_without_syncwarp(int* out) {
  BALLOT_SHARED(int, values, 32);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[31 - threadIdx.x];
}

__global__ void __launch_bounds__(32) lanes_with_syncwarp(int* out) {
  BALLOT_SHARED(int, values, 32);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncwarp();
  out[threadIdx.x] = values[31 - threadIdx.x];
}

// Reads by the read-only path what it writes.
__global__ void __launch_bounds__(64)
    reverse(const float* __restrict__ from, float* __restrict__ to, std::int64_t n) {
  const std::int64_t i = global_thread();
  if (i < n) to[n - 1 - i] = from[i];
}

__global__ void __launch_bounds__(32) angles(const float* x, float* sine, float* cosine) {
  sincosf(x[threadIdx.x], sine + threadIdx.x, cosine + threadIdx.x);
}

__global__ void __launch_bounds__(32) exponentials(const float* x, float* y) {
  y[threadIdx.x] = expf(x[threadIdx.x]) + __expf(-x[threadIdx.x]) + rsqrtf(x[threadIdx.x] + 2.0f);
}

}  // namespace ballot::kernels
