// CUDA's device language as ordinary C++, for kernel files compiled by g++ with -DBALLOT_SIMT:
// threadIdx, barriers, warp functions, shared memory and launch. intrinsics.h has the arithmetic.
//
// The names are CUDA's, in the global namespace. A default argument of each function that gathers
// threads holds the place it is written at, for reports.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/block.h"       // current_thread, warp_function, barrier
#include "simt/intrinsics.h"  // __popc, atomicAdd, ...
#include "simt/launch.h"      // Launch, enqueue

// Kernels are found by their mangled name: exported, whatever the default.
#undef __global__
#define __global__ __attribute__((visibility("default"), used))
#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif

#define threadIdx (::ballot::simt::current_thread->thread_idx)
#define blockIdx (::ballot::simt::current_thread->block->index)
#define blockDim (::ballot::simt::current_launch->block)
#define gridDim (::ballot::simt::current_launch->grid)
inline constexpr int warpSize = 32;

#define BALLOT_SHARED(T, name, N)                           \
  T(&name)                                                  \
  [N] = *static_cast<T(*)[N]>(::ballot::simt::shared_array( \
      []() -> const void* {                                 \
        static const char key = 0;                          \
        return &key;                                        \
      }(),                                                  \
      sizeof(T[N]), alignof(T), #name))
#define BALLOT_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::ballot::simt::dynamic_shared())

#define BALLOT_SIMT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(BALLOT_SIMT_HERE) {
  ballot::simt::barrier({file, line});
}

inline void __syncwarp(unsigned mask = 0xffffffffu, BALLOT_SIMT_HERE) {
  ballot::simt::warp_function(ballot::simt::WarpOp::sync, mask, 0, 0, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, BALLOT_SIMT_HERE) {
  return static_cast<unsigned>(ballot::simt::warp_function(
      ballot::simt::WarpOp::vote, mask, predicate != 0 ? 1 : 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, BALLOT_SIMT_HERE) {
  return __ballot_sync(mask, predicate, file, line) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, BALLOT_SIMT_HERE) {
  return __ballot_sync(mask, predicate, file, line) == mask ? 1 : 0;
}

namespace ballot::simt {

template <class T>
std::uint64_t to_word(T x) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t word = 0;
  std::memcpy(&word, &x, sizeof x);
  return word;
}
template <class T>
T from_word(std::uint64_t word) {
  T x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

// The lane read is given in the segment of `width` lanes that the caller is in; one outside of it
// stands for the caller's own.
template <class T>
T shuffle(unsigned mask, T x, int in_segment, bool inside, int width, Site site) {
  if (width != 1 && width != 2 && width != 4 && width != 8 && width != 16 && width != 32)
    fault("a shuffle of width " + std::to_string(width), site);
  const int lane = current_thread->lane;
  const int source = inside ? (lane & ~(width - 1)) + in_segment : lane;
  return from_word<T>(warp_function(WarpOp::shuffle, mask, to_word(x), source, site));
}

template <class T>
Parameter parameter_of(const T& x) {
  static_assert(std::is_trivially_copyable_v<T>, "parameters go by value, as bytes");
  Parameter parameter{std::vector<std::byte>(sizeof x), std::is_pointer_v<T>};
  std::memcpy(parameter.bytes.data(), &x, sizeof x);
  return parameter;
}

}  // namespace ballot::simt

template <class T>
T __shfl_sync(unsigned mask, T x, int source, int width = 32, BALLOT_SIMT_HERE) {
  return ballot::simt::shuffle(mask, x, source & (width - 1), true, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = 32, BALLOT_SIMT_HERE) {
  const int from = (ballot::simt::current_thread->lane & (width - 1)) - static_cast<int>(delta);
  return ballot::simt::shuffle(mask, x, from, from >= 0, width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = 32, BALLOT_SIMT_HERE) {
  const int from = (ballot::simt::current_thread->lane & (width - 1)) + static_cast<int>(delta);
  return ballot::simt::shuffle(mask, x, from, from < width, width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int lanes, int width = 32, BALLOT_SIMT_HERE) {
  const int lane = ballot::simt::current_thread->lane & (width - 1);
  const int from = lane ^ lanes;
  return ballot::simt::shuffle(mask, x, from, from < width, width, {file, line});
}

#define BALLOT_SIMT_REDUCE(name, T, op)                                                   \
  inline T name(unsigned mask, T x, BALLOT_SIMT_HERE) {                                   \
    return static_cast<T>(ballot::simt::warp_function(                                    \
        ballot::simt::WarpOp::op, mask, static_cast<std::uint32_t>(x), 0, {file, line})); \
  }
BALLOT_SIMT_REDUCE(__reduce_add_sync, unsigned, add_signed)
BALLOT_SIMT_REDUCE(__reduce_add_sync, int, add_signed)
BALLOT_SIMT_REDUCE(__reduce_min_sync, unsigned, min_unsigned)
BALLOT_SIMT_REDUCE(__reduce_min_sync, int, min_signed)
BALLOT_SIMT_REDUCE(__reduce_max_sync, unsigned, max_unsigned)
BALLOT_SIMT_REDUCE(__reduce_max_sync, int, max_signed)
BALLOT_SIMT_REDUCE(__reduce_and_sync, unsigned, bit_and)
BALLOT_SIMT_REDUCE(__reduce_or_sync, unsigned, bit_or)
BALLOT_SIMT_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef BALLOT_SIMT_REDUCE

template <class T>
unsigned __match_any_sync(unsigned mask, T x, BALLOT_SIMT_HERE) {
  return static_cast<unsigned>(ballot::simt::warp_function(
      ballot::simt::WarpOp::match_any, mask, ballot::simt::to_word(x), 0, {file, line}));
}

namespace ballot {

// As kernel.h says of launch; a launch that a device would refuse throws here, what goes wrong in
// the kernel throws KernelFault where the stream executes it.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  auto launch = std::make_shared<simt::Launch>();
  launch->kernel = reinterpret_cast<const void*>(kernel);
  launch->grid = grid;
  launch->block = block;
  launch->shared_bytes = shared_bytes;
  std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
  std::apply([&](const auto&... value) { launch->parameters = {simt::parameter_of(value)...}; },
             values);
  launch->call = [kernel, values] { std::apply(kernel, values); };
  simt::check_launch(*launch);
  simt::enqueue(stream, [launch] { simt::execute(*launch); });
}

}  // namespace ballot
