// The loops behind kernels.h. Included by one file for each instruction set, which says how wide a
// register is (kVectorBytes) and is compiled for that set.
//
// Nothing of the standard library may be called here: an inline function that two files share could
// be the copy that the processor lacks instructions for. For the same reason all names are local to
// the including file.
#pragma once

#include <stdint.h>

#include "collectives/kernels.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ballot {
namespace {

typedef uint64_t Vector __attribute__((vector_size(kVectorBytes)));
constexpr int kLanes = kVectorBytes / 8;

inline Vector load(const uint64_t* p) {
  Vector x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline void store(uint64_t* p, Vector x) {
  __builtin_memcpy(p, &x, sizeof x);
}
// Asks for what lies `bytes` ahead. The hardware's own prefetching ends at each page of 4 KiB; this
// crosses it. Reading past the end of an array is harmless: such a request is dropped.
constexpr int64_t kAhead = 2048;
inline void prefetch(const void* p) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + kAhead));
}
inline Vector fill(uint64_t value) {
  return Vector{} + value;
}

// Three bits of one weight: their sum, and the carry of twice the weight.
inline Vector sum_of(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(_mm512_ternarylogic_epi64(reinterpret_cast<__m512i>(a),
                                                            reinterpret_cast<__m512i>(b),
                                                            reinterpret_cast<__m512i>(c), 0x96));
#else
  return a ^ b ^ c;
#endif
}
inline Vector carry_of(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(_mm512_ternarylogic_epi64(reinterpret_cast<__m512i>(a),
                                                            reinterpret_cast<__m512i>(b),
                                                            reinterpret_cast<__m512i>(c), 0xe8));
#else
  return (a & b) | ((a ^ b) & c);
#endif
}

inline Vector popcount(Vector x) {
#if defined(__AVX512VPOPCNTDQ__)
  return reinterpret_cast<Vector>(_mm512_popcnt_epi64(reinterpret_cast<__m512i>(x)));
#elif defined(__AVX2__)
  // Four bits at a time from a table, then the bytes of each word together.
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i four = _mm256_set1_epi8(15), all = reinterpret_cast<__m256i>(x);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(all, four));
  const __m256i high =
      _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(all, 4), four));
  return reinterpret_cast<Vector>(
      _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256()));
#else
  x -= (x >> 1) & 0x5555555555555555ull;
  x = (x & 0x3333333333333333ull) + ((x >> 2) & 0x3333333333333333ull);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0full;
  x += x >> 8;
  x += x >> 16;
  return (x + (x >> 32)) & 0x7f;
#endif
}
inline int64_t lanes_sum(Vector x) {
  uint64_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += x[i];
  return static_cast<int64_t>(sum);
}

// mix64 of core/hash.h, lane by lane.
inline Vector mix(Vector x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// ---- signs ----

struct Magnitudes {
  uint32_t least, most;  // fp32 bits without sign: ordered as the magnitudes are, NaN on top
};

#if defined(__AVX512F__)
inline Magnitudes pack_block(const float* x, int64_t words, uint64_t* bits) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i least = magnitude, most = _mm512_setzero_si512();
  for (int64_t w = 0; w < words; ++w, x += 64) {
    __mmask16 sign[4];
    for (int i = 0; i < 4; ++i) {
      const __m512i v = _mm512_loadu_si512(x + i * 16);
      prefetch(x + i * 16);
      sign[i] = _mm512_movepi32_mask(v);
      const __m512i size = _mm512_and_si512(v, magnitude);
      least = _mm512_min_epu32(least, size);
      most = _mm512_max_epu32(most, size);
    }
    bits[w] = static_cast<uint64_t>(sign[0]) | static_cast<uint64_t>(sign[1]) << 16 |
              static_cast<uint64_t>(sign[2]) << 32 | static_cast<uint64_t>(sign[3]) << 48;
  }
  return {_mm512_reduce_min_epu32(least), _mm512_reduce_max_epu32(most)};
}
#elif defined(__AVX2__)
inline Magnitudes pack_block(const float* x, int64_t words, uint64_t* bits) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i least = magnitude, most = _mm256_setzero_si256();
  for (int64_t w = 0; w < words; ++w, x += 64) {
    uint64_t signs = 0;
    for (int i = 0; i < 8; ++i) {
      const __m256 v = _mm256_loadu_ps(x + i * 8);
      if (i % 2 == 0) prefetch(x + i * 8);
      signs |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(v))) << (i * 8);
      const __m256i size = _mm256_and_si256(_mm256_castps_si256(v), magnitude);
      least = _mm256_min_epu32(least, size);
      most = _mm256_max_epu32(most, size);
    }
    bits[w] = signs;
  }
  uint32_t low[8], high[8];
  __builtin_memcpy(low, &least, sizeof low);
  __builtin_memcpy(high, &most, sizeof high);
  Magnitudes range{low[0], high[0]};
  for (int i = 1; i < 8; ++i) {
    range.least = range.least < low[i] ? range.least : low[i];
    range.most = range.most > high[i] ? range.most : high[i];
  }
  return range;
}
#else
// Lanes are spelled out so that they become vector shifts.
inline Magnitudes pack_block(const float* x, int64_t words, uint64_t* bits) {
  int32_t least = 0x7fffffff, most = 0;  // without the sign, signed order is the same
  for (int64_t w = 0; w < words; ++w, x += 64) {
    uint32_t v[64];
    for (int i = 0; i < 64; i += 16) prefetch(x + i);
    __builtin_memcpy(v, x, sizeof v);
    uint32_t low = 0, high = 0;
    for (uint32_t i = 0; i < 32; ++i) low |= (v[i] >> 31) << i;
    for (uint32_t i = 0; i < 32; ++i) high |= (v[32 + i] >> 31) << i;
    bits[w] = low | static_cast<uint64_t>(high) << 32;
    for (int i = 0; i < 64; ++i) {
      const int32_t size = static_cast<int32_t>(v[i] & 0x7fffffffu);
      least = least < size ? least : size;
      most = most > size ? most : size;
    }
  }
  return {static_cast<uint32_t>(least), static_cast<uint32_t>(most)};
}
#endif

uint8_t pack_blocks(const float* x, int64_t blocks, int64_t block_words, double threshold,
                    uint64_t* bits, uint8_t* flags) {
  uint8_t all = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const Magnitudes range = pack_block(x, block_words, bits);
    float most;
    __builtin_memcpy(&most, &range.most, sizeof most);
    uint8_t flag = static_cast<double>(most) <= threshold ? kBlockIsSilent : 0;  // false for NaN
    if (range.least == 0) flag |= kBlockHasZeros;
    flags[block] = flag;
    all |= flag;
    x += block_words * 64;
    bits += block_words;
  }
  return all;
}

// ---- counts ----

constexpr int digits_of(int count) {
  int digits = 0;
  for (; count > 0; count /= 2) ++digits;
  return digits;
}

// How many of N words are set, in binary: two halves and one carry, added digit by digit. N words
// cost at most N full adders.
template <int N>
struct Count {
  Vector digit[digits_of(N)];
};
template <int N>
[[gnu::always_inline]] inline Count<N> count(const Vector* x) {
  Count<N> result;
  if constexpr (N == 1) {
    result.digit[0] = x[0];
  } else if constexpr (N % 2 == 1) {
    constexpr int kHalf = N / 2;
    const Count<kHalf> a = count<kHalf>(x), b = count<kHalf>(x + kHalf);
    Vector carry = x[N - 1];
    for (int k = 0; k < digits_of(kHalf); ++k) {
      result.digit[k] = sum_of(a.digit[k], b.digit[k], carry);
      carry = carry_of(a.digit[k], b.digit[k], carry);
    }
    result.digit[digits_of(kHalf)] = carry;
  } else {
    const Count<N - 1> a = count<N - 1>(x);
    Vector carry = x[N - 1];
    for (int k = 0; k < digits_of(N - 1); ++k) {
      result.digit[k] = a.digit[k] ^ carry;
      carry &= a.digit[k];
    }
    if constexpr (digits_of(N) > digits_of(N - 1)) result.digit[digits_of(N - 1)] = carry;
  }
  return result;
}

// The planes at one place <- (kAdd ? themselves : 0) + a number of N digits. What the last digit
// carries is lost: counts fit.
template <int N, bool kAdd>
[[gnu::always_inline]] inline void accumulate(const Vector* number, uint64_t* planes,
                                              int64_t stride, int digits) {
  Vector carry{};
#pragma GCC unroll 16
  for (int k = 0; k < N; ++k, planes += stride) {
    const Vector old = kAdd ? load(planes) : Vector{};
    store(planes, kAdd ? sum_of(old, number[k], carry) : number[k]);
    if (kAdd) carry = carry_of(old, number[k], carry);
  }
  for (int k = N; k < digits; ++k, planes += stride) {
    const Vector old = kAdd ? load(planes) : Vector{};
    store(planes, old ^ carry);
    carry &= old;
  }
}

template <int N, bool kAdd>
void count_batch(const uint64_t* const* ballots, int64_t words, uint64_t* planes, int64_t stride,
                 int digits) {
  const uint64_t* ballot[N];
  for (int v = 0; v < N; ++v) ballot[v] = ballots[v];
  for (int64_t w = 0; w < words; w += kLanes) {
    Vector x[N];
    for (int v = 0; v < N; ++v) {
      x[v] = load(ballot[v] + w);
      if (!kAdd && w % 8 == 0) prefetch(ballot[v] + w);  // later batches come too soon for it
    }
    const Count<N> number = count<N>(x);
    accumulate<digits_of(N), kAdd>(number.digit, planes + w, stride, digits);
  }
}
template <int N>
void count_batch(const uint64_t* const* ballots, int64_t words, bool add, uint64_t* planes,
                 int64_t stride, int digits) {
  (add ? count_batch<N, true> : count_batch<N, false>)(ballots, words, planes, stride, digits);
}

void count_ballots(const uint64_t* const* ballots, int count, int64_t words, bool add,
                   uint64_t* planes, int64_t stride, int digits) {
  using Batch = void (*)(const uint64_t* const*, int64_t, bool, uint64_t*, int64_t, int);
  static constexpr Batch kBatches[kBatch] = {
      count_batch<1>,  count_batch<2>,  count_batch<3>,  count_batch<4>,  count_batch<5>,
      count_batch<6>,  count_batch<7>,  count_batch<8>,  count_batch<9>,  count_batch<10>,
      count_batch<11>, count_batch<12>, count_batch<13>, count_batch<14>, count_batch<15>};
  kBatches[count - 1](ballots, words, add, planes, stride, digits);
}

template <int N>
void add_part(const uint64_t* part, int64_t part_stride, int64_t words, bool add, uint64_t* planes,
              int64_t stride, int digits) {
  for (int64_t w = 0; w < words; w += kLanes) {
    Vector number[N];
    for (int k = 0; k < N; ++k) {
      number[k] = load(part + k * part_stride + w);
      if (w % 8 == 0) prefetch(part + k * part_stride + w);
    }
    if (add)
      accumulate<N, true>(number, planes + w, stride, digits);
    else
      accumulate<N, false>(number, planes + w, stride, digits);
  }
}

void add_planes(const uint64_t* part, int64_t part_stride, int part_digits, int64_t words, bool add,
                uint64_t* planes, int64_t stride, int digits) {
  using Add = void (*)(const uint64_t*, int64_t, int64_t, bool, uint64_t*, int64_t, int);
  static constexpr Add kAdds[kMaxDigits] = {add_part<1>, add_part<2>,  add_part<3>, add_part<4>,
                                            add_part<5>, add_part<6>,  add_part<7>, add_part<8>,
                                            add_part<9>, add_part<10>, add_part<11>};
  kAdds[part_digits - 1](part, part_stride, words, add, planes, stride, digits);
}

// ---- the verdict ----

template <int D, bool kUniform>
ElectionSums elect_digits(const Election& election) {
  const Election e = election;  // or every store of a word might change it
  Vector half[D], full[D];      // digits of the thresholds, all ones or zeros in a word
  Vector even = e.voting % 2 == 0 ? ~Vector{} : Vector{};
  for (int k = 0; k < D; ++k) {
    half[k] = fill(0 - static_cast<uint64_t>((e.voting >> (k + 1)) & 1));
    full[k] = fill(0 - static_cast<uint64_t>((e.voting >> k) & 1));
  }
  const bool coins = !e.hold && (!kUniform || e.voting % 2 == 0);
  Vector arena = fill(e.arena_word);
  for (int i = 0; i < kLanes; ++i) arena[i] += static_cast<uint64_t>(i);
  Vector ties_sum{}, unanimous_sum{};
  for (int64_t w = 0; w < e.words; w += kLanes, arena += kLanes) {
    Vector real = ~Vector{};
    if constexpr (!kUniform) {
      real = load(e.real + w);
      if (e.voting_words != nullptr) {
        const Vector voting = load(e.voting_words + w);
        even = (voting & 1) - 1;
        for (int k = 0; k < D; ++k) {
          half[k] = 0 - ((voting >> (k + 1)) & 1);
          full[k] = 0 - ((voting >> k) & 1);
        }
      }
    }
    Vector more{}, equal = ~Vector{}, any{}, all = ~Vector{};
    for (int k = D - 1; k >= 0; --k) {
      const Vector digit = load(e.planes + k * e.stride + w);
      any |= digit;
      if constexpr (kUniform) {  // the branches are the same for every word
        if ((e.voting >> (k + 1)) & 1) {
          equal &= digit;
        } else {
          more |= equal & digit;
          equal &= ~digit;
        }
        if ((e.voting >> k) & 1)
          all &= digit;
        else
          all &= ~digit;
      } else {
        more |= equal & digit & ~half[k];
        equal &= ~(digit ^ half[k]);
        all &= ~(digit ^ full[k]);
      }
    }
    const Vector ties = equal & even & real;
    Vector negative = more & real;
    if (coins) negative |= mix(e.coin_stream ^ arena) & ties;
    store(e.bits + w, negative);
    if (e.held != nullptr) store(e.held + w, e.hold ? ties : Vector{});
    ties_sum += popcount(ties);
    unanimous_sum += popcount((all | ~any) & real);
  }
  return {lanes_sum(ties_sum), lanes_sum(unanimous_sum)};
}

ElectionSums elect(const Election& e) {
  using Elect = ElectionSums (*)(const Election&);
  static constexpr Elect kUniform[kMaxDigits] = {
      elect_digits<1, true>, elect_digits<2, true>,  elect_digits<3, true>, elect_digits<4, true>,
      elect_digits<5, true>, elect_digits<6, true>,  elect_digits<7, true>, elect_digits<8, true>,
      elect_digits<9, true>, elect_digits<10, true>, elect_digits<11, true>};
  static constexpr Elect kMixed[kMaxDigits] = {
      elect_digits<1, false>,  elect_digits<2, false>, elect_digits<3, false>,
      elect_digits<4, false>,  elect_digits<5, false>, elect_digits<6, false>,
      elect_digits<7, false>,  elect_digits<8, false>, elect_digits<9, false>,
      elect_digits<10, false>, elect_digits<11, false>};
  return (e.real == nullptr ? kUniform : kMixed)[e.digits - 1](e);
}

// ---- agreement ----

void compare_sample(const uint64_t* sample, int voters, const SampleMasks& masks,
                    const uint8_t* votes, int64_t* agreed, int64_t* compared) {
  for (int v = 0; v < voters; ++v, sample += 8) {
    Vector agreements{}, comparisons{};
    for (int i = 0; i < 8; i += kLanes) {
      const Vector x = load(sample + i);
      Vector voting = ~Vector{};
      if (votes != nullptr)
        for (int lane = 0; lane < kLanes; ++lane)
          voting[lane] = 0 - static_cast<uint64_t>((votes[v] >> (i + lane)) & 1);
      agreements += popcount(
          voting & ((x & load(masks.agree_negative + i)) | (~x & load(masks.agree_positive + i))));
      comparisons += popcount(voting & ((x & load(masks.compare_negative + i)) |
                                        (~x & load(masks.compare_positive + i))));
    }
    // At most 512 each: one sum for both.
    const int64_t both = lanes_sum(agreements + (comparisons << 32));
    agreed[v] += both & 0xffffffff;
    compared[v] += both >> 32;
  }
}

}  // namespace
}  // namespace ballot

#define BALLOT_KERNELS(name) \
  { name, pack_blocks, count_ballots, add_planes, elect, compare_sample }
