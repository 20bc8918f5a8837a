// CUDA's arithmetic intrinsics and atomics as ordinary functions.
//
// The _rn forms and division round as IEEE says, so they are plain operations (compile with
// -ffp-contract=off). The fast forms (__expf, __logf, rsqrtf) are the exact functions here: a
// device differs from them in the last bits, which tests must allow for.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace ballot::simt {
void perhaps_yield();
}

inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __popcll(unsigned long long x) {
  return std::popcount(x);
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
inline int __clzll(long long x) {
  return std::countl_zero(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1;
}
inline int __ffsll(long long x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(x)) + 1;
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t both = std::uint64_t{high} << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<unsigned>(both >> (8 * (selector >> (4 * i) & 7u)) & 0xffu) << (8 * i);
  return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned bits) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) << (bits & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (bits & 31));
}

inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fsqrt_rn(float x) {
  return std::sqrt(x);
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline double __fma_rn(double a, double b, double c) {
  return std::fma(a, b, c);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __exp10f(float x) {
  return std::pow(10.0f, x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __log2f(float x) {
  return std::log2(x);
}
inline float __powf(float x, float y) {
  return std::pow(x, y);
}
inline float __sinf(float x) {
  return std::sin(x);
}
inline float __cosf(float x) {
  return std::cos(x);
}
inline float __saturatef(float x) {
  return std::isnan(x) ? 0.0f : std::clamp(x, 0.0f, 1.0f);
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
inline int __float2int_rn(float x) {
  return static_cast<int>(std::nearbyint(x));
}
inline int __float2int_rz(float x) {
  return static_cast<int>(x);
}
inline float __int2float_rn(int x) {
  return static_cast<float>(x);
}
inline float __uint2float_rn(unsigned x) {
  return static_cast<float>(x);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
inline long long __double_as_longlong(double x) {
  return std::bit_cast<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return std::bit_cast<double>(x);
}

template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
void __stcs(T* to, T x) {
  *to = x;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) {}

namespace ballot::simt {
// All threads of a launch run on one CPU thread, so a plain read and write is atomic; that others
// may run just before it is all there is to an atomic here.
template <class T, class Change>
T atomic(T* at, Change change) {
  perhaps_yield();
  const T old = *at;
  *at = change(old);
  return old;
}
}  // namespace ballot::simt

template <class T>
T atomicAdd(T* at, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T old) { return static_cast<T>(old + x); });
}
template <class T>
T atomicSub(T* at, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T old) { return static_cast<T>(old - x); });
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T old) { return static_cast<T>(old | x); });
}
template <class T>
T atomicAnd(T* at, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T old) { return static_cast<T>(old & x); });
}
template <class T>
T atomicXor(T* at, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T old) { return static_cast<T>(old ^ x); });
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T old) { return std::max(old, x); });
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T old) { return std::min(old, x); });
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T) { return x; });
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  return ballot::simt::atomic(at, [&](T old) { return old == expected ? x : old; });
}
