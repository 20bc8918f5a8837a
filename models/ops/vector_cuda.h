// What the kernels of models/ops share: neighbouring elements moved at once and widened to fp32,
// and the choice of how many.
//
// For kernel files only, after core/cuda/kernel.h.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/cuda/kernel.h"  // Pack
#include "core/tensor.h"       // Tensor, DType

// Before a loop of constant length whose arrays are to be registers; before one of any length, so
// that eight of its loads are under way at once.
#ifdef __CUDACC__
#define BALLOT_UNROLL _Pragma("unroll")
#define BALLOT_UNROLL_BY_4 _Pragma("unroll 4")
#define BALLOT_UNROLL_BY_8 _Pragma("unroll 8")
#else
#define BALLOT_UNROLL
#define BALLOT_UNROLL_BY_4
#define BALLOT_UNROLL_BY_8
#endif

namespace ballot {
namespace kernels {

template <int kBytes>
struct RawOf;
template <>
struct RawOf<16> {
  using Type = uint4;
};
template <>
struct RawOf<8> {
  using Type = uint2;
};
template <>
struct RawOf<4> {
  using Type = unsigned;
};
template <>
struct RawOf<2> {
  using Type = unsigned short;
};

// kWidth elements from an address that is a multiple of their size, or of 16 where they are larger.
template <int kWidth, class T>
__device__ __forceinline__ void load(const T* from, float (&to)[kWidth]) {
  constexpr int kBytes = kWidth * sizeof(T) < 16 ? kWidth * sizeof(T) : 16;
  constexpr int kCount = kBytes / sizeof(T);
  BALLOT_UNROLL
  for (int i = 0; i < kWidth; i += kCount) {
#ifdef BALLOT_SIMT
    simt::require_aligned(from + i, kBytes, "load");
    T values[kCount];
    std::memcpy(values, from + i, kBytes);
#else
    const auto raw = *reinterpret_cast<const typename RawOf<kBytes>::Type*>(from + i);
    T values[kCount];
    memcpy(values, &raw, kBytes);
#endif
    BALLOT_UNROLL
    for (int j = 0; j < kCount; ++j) to[i + j] = to_float(values[j]);
  }
}

template <int kWidth, class T>
__device__ __forceinline__ void store(T* to, const float (&from)[kWidth]) {
  constexpr int kBytes = kWidth * sizeof(T) < 16 ? kWidth * sizeof(T) : 16;
  constexpr int kCount = kBytes / sizeof(T);
  BALLOT_UNROLL
  for (int i = 0; i < kWidth; i += kCount) {
    T values[kCount];
    BALLOT_UNROLL
    for (int j = 0; j < kCount; ++j) values[j] = from_float<T>(from[i + j]);
#ifdef BALLOT_SIMT
    simt::require_aligned(to + i, kBytes, "store");
    std::memcpy(to + i, values, kBytes);
#else
    typename RawOf<kBytes>::Type raw;
    memcpy(&raw, values, kBytes);
    *reinterpret_cast<typename RawOf<kBytes>::Type*>(to + i) = raw;
#endif
  }
}

}  // namespace kernels

// True where rows of `cols` elements can be moved `width` at a time from each of these addresses
// on.
template <class... Pointers>
bool moves_by(std::int64_t width, std::int64_t cols, Pointers... pointers) {
  const auto fits = [&](auto* pointer) {
    const auto bytes = static_cast<std::uintptr_t>(width) * sizeof(*pointer);
    return reinterpret_cast<std::uintptr_t>(pointer) % (bytes < 16 ? bytes : 16) == 0;
  };
  return cols % width == 0 && (fits(pointers) && ...);
}

// body(integral_constant<int, kWidth>) or body(integral_constant<int, 1>).
template <int kWidth, class Body>
void with_width(bool vectors, const Body& body) {
  if (vectors)
    body(std::integral_constant<int, kWidth>());
  else
    body(std::integral_constant<int, 1>());
}

// body(T*) for the type of a tensor.
template <class Body>
void with_type(DType type, const Body& body) {
  if (type == DType::f32)
    body(static_cast<float*>(nullptr));
  else
    body(static_cast<bfloat16*>(nullptr));
}

// Threads of a block that handles a row of `items`, one each at least: a multiple of 32 up to
// `most`.
inline unsigned threads_for(std::int64_t items, unsigned most) {
  const std::int64_t threads = (items + 31) / 32 * 32;
  return threads < 32 ? 32 : threads < most ? static_cast<unsigned>(threads) : most;
}

}  // namespace ballot
