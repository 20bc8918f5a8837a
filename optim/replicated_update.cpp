// One pass per parameter: decay, step, what products read, digest. Compiled without contraction.

#include "optim/replicated_update.h"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/copy.h"
#include "core/error.h"
#include "core/parallel.h"
#include "optim/cuda_optim.h"
#include "optim/digest_mix.h"

namespace ballot {
namespace {

[[gnu::always_inline]] inline float decayed(float p, float decay) {
  // p - 0 p would turn -0 into +0.
  return decay == 0 ? p : p - decay * p;
}

// Elements of one row: where they lie, what products read (null where that is the value itself),
// the first one's index.
struct Run {
  float* value;
  bfloat16* compute;
  std::uint64_t index;
};

[[gnu::always_inline]] inline std::uint64_t store(const float* __restrict value,
                                                  bfloat16* __restrict compute, std::uint64_t index,
                                                  std::int64_t count) {
  std::uint64_t digest = 0;
  const std::uint64_t start = index * kDigestIndexFactor;
  for (std::int64_t i = 0; i < count; ++i)
    digest += mix_digest(std::bit_cast<std::uint32_t>(value[i]),
                         start + static_cast<std::uint64_t>(i) * kDigestIndexFactor);
  if (compute != nullptr)
    for (std::int64_t i = 0; i < count; ++i) compute[i] = to_bfloat16(value[i]);
  return digest;
}

// A row of `count` elements; bits from word 0 of `negative`; held by block (64 << block_shift
// elements, bit `first_block` first) and by element (null: none).
struct RowVerdict {
  const std::uint64_t* negative;
  const std::uint64_t* held_elements;
  const std::uint64_t* held_blocks;
  std::int64_t first_block;
  int block_shift;
};

// Sixteen elements at a time: one register with AVX-512, two or four with less.
typedef float Floats __attribute__((vector_size(64)));
typedef std::uint32_t Bits __attribute__((vector_size(64)));
typedef std::int32_t Lanes __attribute__((vector_size(64)));
typedef std::uint16_t Halves __attribute__((vector_size(32)));
typedef std::uint64_t Digests __attribute__((vector_size(64)));

constexpr Bits kLaneBit = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                           1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
constexpr Digests kPairIndex = {0, 2, 4, 6, 8, 10, 12, 14};
constexpr std::int64_t kPrefetch =
    1024;  // elements ahead: past the page that the hardware stays in

// A number whose value the compiler does not see: else it makes each constant anew inside the loop,
// where it should keep a register.
[[gnu::always_inline]] inline std::uint64_t opaque(std::uint64_t x) {
  asm("" : "+r"(x));
  return x;
}

// Sixteen elements' digests at once, as pairs: an even element is the low half of its pair.
struct DigestSum {
  Digests even, odd;  // index x kDigestIndexFactor of the next sixteen
  Digests next, factor, low;
  Digests sum{};

  [[gnu::always_inline]] explicit DigestSum(std::uint64_t index)
      : even((kPairIndex + index) * kDigestIndexFactor),
        odd(even + kDigestIndexFactor),
        next(Digests{} + opaque(16 * kDigestIndexFactor)),
        factor(Digests{} + opaque(kDigestMixFactor)),
        low(Digests{} + opaque(0xffffffffu)) {}
  [[gnu::always_inline]] void add(const Digests& pairs) {
    Digests x = (pairs & low) + even, y = (pairs >> 32) + odd;
    x = (x ^ (x >> 32)) * factor;
    y = (y ^ (y >> 32)) * factor;
    sum += (x ^ (x >> 32)) + (y ^ (y >> 32));
    even += next;
    odd += next;
  }
};

// to_bfloat16, lane by lane.
[[gnu::always_inline]] inline void round_lanes(const Bits& bits, bfloat16* __restrict out) {
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40u;
  const Lanes size = reinterpret_cast<Lanes>(bits & 0x7fffffffu);
  const Halves halves = __builtin_convertvector(size > 0x7f800000 ? quiet : rounded, Halves);
  std::memcpy(out, &halves, sizeof halves);
}

// One word's 64 elements.
template <bool kDecays, bool kSteps>
[[gnu::always_inline]] inline void apply_word(float* __restrict p, bfloat16* __restrict compute,
                                              std::uint64_t negative, std::uint64_t held,
                                              float decay, const Floats& plus, const Floats& minus,
                                              DigestSum& digests) {
  for (int quarter = 0; quarter < 4; ++quarter, p += 16) {
    Floats value;
    std::memcpy(&value, p, sizeof value);
    __builtin_prefetch(p + kPrefetch, 1);
    if constexpr (kDecays) value = value - decay * value;
    if constexpr (kSteps) {
      const Bits down =
          (Bits{} + static_cast<std::uint32_t>(negative >> (quarter * 16))) & kLaneBit;
      Floats step = down != 0 ? minus : plus;
      if (held != 0) {  // a held element subtracts +0, which changes no bit
        const Bits stay = (Bits{} + static_cast<std::uint32_t>(held >> (quarter * 16))) & kLaneBit;
        step = stay != 0 ? Floats{} : step;
      }
      value = value - step;
    }
    if constexpr (kDecays || kSteps) std::memcpy(p, &value, sizeof value);
    const Bits bits = reinterpret_cast<Bits>(value);
    digests.add(reinterpret_cast<Digests>(bits));
    if (compute != nullptr) round_lanes(bits, compute + quarter * 16);
  }
}

// What is left of a row, fewer than 64 elements.
[[gnu::always_inline]] inline std::uint64_t apply_rest(float* __restrict p, bfloat16* compute,
                                                       std::uint64_t negative, std::uint64_t held,
                                                       std::uint64_t index, std::int64_t count,
                                                       RateFactors factors) {
  if (factors.decay != 0 || held != ~0ull)
    for (std::int64_t i = 0; i < count; ++i) {
      const float step = (negative >> i) & 1u ? -factors.step : factors.step;
      p[i] = decayed(p[i], factors.decay) - ((held >> i) & 1u ? 0.0f : step);
    }
  return store(p, compute, index, count);
}

template <bool kDecays, bool kSteps>
[[gnu::always_inline]] inline std::uint64_t apply_row(Run run, RowVerdict verdict,
                                                      std::int64_t count, RateFactors factors) {
  DigestSum digests(run.index);
  Floats plus;
  for (int i = 0; i < 16; ++i) plus[i] = factors.step;
  const Floats minus = -plus;
  std::uint64_t digest = 0;
  for (std::int64_t word = 0; word * 64 < count; ++word) {
    std::uint64_t negative = 0, held = ~0ull;
    if constexpr (kSteps) {
      const std::int64_t block = verdict.first_block + (word >> verdict.block_shift);
      negative = verdict.negative[word];
      if (((verdict.held_blocks[block / 64] >> (block % 64)) & 1u) == 0)
        held = verdict.held_elements != nullptr ? verdict.held_elements[word] : 0;
    }
    float* const p = run.value + word * 64;
    bfloat16* const c = run.compute == nullptr ? nullptr : run.compute + word * 64;
    if (const std::int64_t left = count - word * 64; left < 64)
      digest += apply_rest(p, c, negative, held, run.index + static_cast<std::uint64_t>(word) * 64,
                           left, factors);
    else if (c == nullptr)
      apply_word<kDecays, kSteps>(p, nullptr, negative, held, factors.decay, plus, minus, digests);
    else
      apply_word<kDecays, kSteps>(p, c, negative, held, factors.decay, plus, minus, digests);
  }
  for (int i = 0; i < 8; ++i) digest += digests.sum[i];
  return digest;
}

BALLOT_VECTORIZED std::uint64_t apply_verdict_row(Run run, RowVerdict verdict, std::int64_t count,
                                                  RateFactors factors) {
  return factors.decay == 0 ? apply_row<false, true>(run, verdict, count, factors)
                            : apply_row<true, true>(run, verdict, count, factors);
}

// With decay = 0 values are only read.
BALLOT_VECTORIZED std::uint64_t apply_decay_row(Run run, std::int64_t count, RateFactors factors) {
  return factors.decay == 0 ? apply_row<false, false>(run, {}, count, factors)
                            : apply_row<true, false>(run, {}, count, factors);
}

// Short pieces, so that digest and rounding read from the first cache what the step wrote.
constexpr std::int64_t kPiece = 1024;

BALLOT_VECTORIZED std::uint64_t apply_direction_row(Run run, const float* __restrict direction,
                                                    std::int64_t count, RateFactors factors) {
  std::uint64_t digest = 0;
  for (std::int64_t begin = 0; begin < count; begin += kPiece) {
    const std::int64_t length = count - begin < kPiece ? count - begin : kPiece;
    float* __restrict p = run.value + begin;
    const float* __restrict d = direction + begin;
    for (std::int64_t i = 0; i < length; ++i)
      p[i] = decayed(p[i], factors.decay) - factors.step * d[i];
    digest += store(p, run.compute == nullptr ? nullptr : run.compute + begin,
                    run.index + static_cast<std::uint64_t>(begin), length);
  }
  return digest;
}

BALLOT_VECTORIZED std::uint64_t apply_adamw_row(Run run, const float* __restrict gradient,
                                                float* __restrict first, float* __restrict second,
                                                std::int64_t count, AdamFactors f) {
  std::uint64_t digest = 0;
  for (std::int64_t begin = 0; begin < count; begin += kPiece) {
    const std::int64_t length = count - begin < kPiece ? count - begin : kPiece;
    float* __restrict p = run.value + begin;
    const float* __restrict g = gradient + begin;
    float* __restrict m = first + begin;
    float* __restrict v = second + begin;
    for (std::int64_t i = 0; i < length; ++i) {
      m[i] = f.keep1 * m[i] + f.absorb1 * g[i];
      v[i] = f.keep2 * v[i] + f.absorb2 * (g[i] * g[i]);
      p[i] = decayed(p[i], f.decay) - f.step * m[i] / (std::sqrt(v[i]) / f.root + f.epsilon);
    }
    digest += store(p, run.compute == nullptr ? nullptr : run.compute + begin,
                    run.index + static_cast<std::uint64_t>(begin), length);
  }
  return digest;
}

Run row_run(const Parameter& parameter, std::int64_t row) {
  Run run;
  run.value = parameter.value.f32() + row * parameter.row_stride;
  run.compute = parameter.compute.type == DType::bf16
                    ? parameter.compute.bf16() + row * parameter.row_stride
                    : nullptr;
  run.index = static_cast<std::uint64_t>(parameter.offset + row * parameter.row_stride);
  return run;
}

bool on_gpu(const Parameter& parameter) {
  return parameter.value.device.kind == Device::Kind::cuda;
}

// body(digest) on the parameter's device. Scratch of the device: the digest, before `rest` bytes.
template <class Body>
std::uint64_t digest_on_gpu(std::uint64_t* later, std::size_t rest, Stream& stream,
                            const Body& body) {
  auto* const scratch = reinterpret_cast<std::uint64_t*>(stream.scratch(sizeof *later + rest));
  if (later != nullptr) {
    body(later, scratch + 1);
    return 0;
  }
  fill_zero(scratch, sizeof *scratch, stream);
  body(scratch, scratch + 1);
  auto* const host = reinterpret_cast<std::uint64_t*>(stream.pinned_scratch(sizeof *scratch));
  copy_bytes(host, Device{}, scratch, stream.device(), sizeof *scratch, stream);
  stream.synchronize();
  return *host;
}
template <class Body>
std::uint64_t digest_on_gpu(std::uint64_t* later, Stream& stream, const Body& body) {
  return digest_on_gpu(later, 0, stream,
                       [&](std::uint64_t* digest, std::uint64_t*) { body(digest); });
}

// Scratch: the segment's words of what of the verdict the device has not.
std::uint64_t apply_verdict_on_gpu(const Verdict& verdict, const BallotSegment& segment,
                                   RateFactors factors, const Parameter& parameter, Stream& stream,
                                   std::uint64_t* later) {
  const bool holds_elements = verdict.held_elements.bit_count() > 0;
  const bool is_there = verdict.device_bits.size_bytes() > 0;
  const std::int64_t word = segment.offset / 64, block_word = segment.first_block / 64;
  const auto words = static_cast<std::size_t>(segment.extent() / 64);
  const auto block_words =
      static_cast<std::size_t>((segment.first_block + segment.blocks() + 63) / 64 - block_word);
  const std::size_t planes = is_there ? 0 : holds_elements ? 2 : 1;
  return digest_on_gpu(
      later, (block_words + planes * words) * 8, stream,
      [&](std::uint64_t* digest, std::uint64_t* scratch) {
        const auto upload = [&](const BitVector& from, std::int64_t first, std::size_t count) {
          std::uint64_t* const to = std::exchange(scratch, scratch + count);
          copy_bytes(to, stream.device(), from.words() + first, Device{}, count * 8, stream);
          return to;
        };
        const auto on_device = [&](const BitVector& bits, const Buffer& there) {
          return is_there ? there.as<const std::uint64_t>() + word : upload(bits, word, words);
        };
        const DeviceVerdict of_segment{
            .negative = on_device(verdict.bits, verdict.device_bits),
            .held_elements = holds_elements
                                 ? on_device(verdict.held_elements, verdict.device_held_elements)
                                 : nullptr,
            .held_blocks = upload(verdict.held_blocks, block_word, block_words),
            .first_block = segment.first_block % 64,
            .block = segment.block,
            .decay = factors.decay,
            .step = factors.step};
        cuda_optim().apply_verdict(of_segment, parameter, digest, stream);
      });
}

void require_parameter(const Parameter& parameter) {
  const auto lies = [&](const Tensor& x) {
    return x.rank == 2 && x.extent[0] == parameter.shape.rows &&
           x.extent[1] == parameter.shape.cols && x.stride[0] == parameter.row_stride &&
           x.stride[1] == 1;
  };
  require(lies(parameter.value) && lies(parameter.compute), "{}: value {}, products read {}",
          parameter.shape.name, parameter.value.describe(), parameter.compute.describe());
  require(parameter.compute.type == DType::bf16 || parameter.compute.data == parameter.value.data,
          "{}: products read an f32 copy", parameter.shape.name);
}

// A GPU's passes walk all tensors alike.
void require_shape(const Parameter& parameter, const Tensor& x, const char* what) {
  require(x.rank == 2 && x.extent[0] == parameter.shape.rows &&
              x.extent[1] == parameter.shape.cols && (x.stride[1] == 1 || x.extent[1] == 1),
          "{}: {} is {}", parameter.shape.name, what, x.describe());
  require(x.device == parameter.value.device &&
              (!on_gpu(parameter) || x.stride[0] == parameter.row_stride || x.extent[0] == 1),
          "{}: {} is {} on {} with rows {} apart, the value's are {} apart on {}",
          parameter.shape.name, what, x.describe(), to_string(x.device), x.stride[0],
          parameter.row_stride, to_string(parameter.value.device));
}

// body(row) -> digest, summed over the rows; the sum is of integers, so any order gives it.
template <class Body>
std::uint64_t for_each_row(const Parameter& parameter, const Body& body) {
  std::atomic<std::uint64_t> digest{0};
  const std::int64_t grain = std::max<std::int64_t>(1, 4096 / parameter.row_stride);
  parallel_for(parameter.shape.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    std::uint64_t sum = 0;
    for (std::int64_t row = begin; row < end; ++row) sum += body(row);
    digest.fetch_add(sum, std::memory_order_relaxed);
  });
  return digest.load();
}

// By squaring: the same on every machine, which pow() of a libm need not be.
double power(double base, std::int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base)
    if (exponent % 2 == 1) result *= base;
  return result;
}

}  // namespace

std::uint64_t element_digest(std::uint32_t bits, std::uint64_t arena_index) {
  return mix_digest(bits, arena_index * kDigestIndexFactor);
}

std::uint64_t apply_verdict(const Verdict& verdict, const BallotSegment& segment,
                            RateFactors factors, const Parameter& parameter, Stream& stream,
                            std::uint64_t* later) {
  require_parameter(parameter);
  require(later == nullptr || on_gpu(parameter), "{}: the CPU's digest is not fetched later",
          parameter.shape.name);
  require(segment.rows == parameter.shape.rows && segment.cols == parameter.shape.cols &&
              segment.row_stride == parameter.row_stride &&
              segment.arena_offset == parameter.offset,
          "verdict segment {} ({}, {}) at {} for parameter {} ({}, {}) at {}", segment.name,
          segment.rows, segment.cols, segment.arena_offset, parameter.shape.name,
          parameter.shape.rows, parameter.shape.cols, parameter.offset);
  require(segment.block >= 64 && std::has_single_bit(static_cast<std::uint64_t>(segment.block)) &&
              segment.row_stride % segment.block == 0 && segment.offset % 64 == 0,
          "segment {}: blocks of {} in rows of {} from {}", segment.name, segment.block,
          segment.row_stride, segment.offset);
  const bool holds_elements = verdict.held_elements.bit_count() > 0;
  require(verdict.bits.bit_count() >= segment.offset + segment.extent() &&
              verdict.held_blocks.bit_count() >= segment.first_block + segment.blocks() &&
              (!holds_elements ||
               verdict.held_elements.bit_count() >= segment.offset + segment.extent()),
          "a verdict of {} elements and {} blocks ends before segment {}", verdict.bits.bit_count(),
          verdict.held_blocks.bit_count(), segment.name);
  if (on_gpu(parameter))
    return apply_verdict_on_gpu(verdict, segment, factors, parameter, stream, later);
  const int block_shift = std::countr_zero(static_cast<std::uint64_t>(segment.block / 64));
  const std::int64_t row_blocks = segment.row_stride / segment.block;
  return for_each_row(parameter, [&](std::int64_t row) {
    const std::int64_t word = (segment.offset + row * segment.row_stride) / 64;
    const RowVerdict of_row{
        .negative = verdict.bits.words() + word,
        .held_elements = holds_elements ? verdict.held_elements.words() + word : nullptr,
        .held_blocks = verdict.held_blocks.words(),
        .first_block = segment.first_block + row * row_blocks,
        .block_shift = block_shift};
    return apply_verdict_row(row_run(parameter, row), of_row, segment.cols, factors);
  });
}

std::uint64_t apply_direction(const Tensor& direction, RateFactors factors,
                              const Parameter& parameter, Stream& stream, std::uint64_t* later) {
  require_parameter(parameter);
  require_shape(parameter, direction, "direction");
  const float* d = direction.f32();
  if (on_gpu(parameter))
    return digest_on_gpu(later, stream, [&](std::uint64_t* digest) {
      cuda_optim().apply_direction(d, factors.decay, factors.step, parameter, digest, stream);
    });
  return for_each_row(parameter, [&](std::int64_t row) {
    return apply_direction_row(row_run(parameter, row), d + row * direction.stride[0],
                               parameter.shape.cols, factors);
  });
}

AdamCorrections adam_corrections(const ParameterGroup& group, std::int64_t count, float step) {
  require(count >= 1, "{}: AdamW's count is {}, expected 1 or more", group.name, count);
  const double correction1 = 1.0 - power(group.beta1, count);
  const double correction2 = 1.0 - power(group.beta2, count);
  return {.step = static_cast<float>(step / correction1),
          .root = static_cast<float>(std::sqrt(correction2))};
}

std::uint64_t apply_adamw(const ParameterGroup& group, const Tensor& gradient,
                          AdamCorrections corrections, float decay, const Tensor& first,
                          const Tensor& second, const Parameter& parameter, Stream& stream,
                          std::uint64_t* later) {
  require_parameter(parameter);
  require_shape(parameter, gradient, "gradient");
  require_shape(parameter, first, "first moment");
  require_shape(parameter, second, "second moment");
  const AdamFactors adam{.keep1 = static_cast<float>(group.beta1),
                         .absorb1 = static_cast<float>(1.0 - group.beta1),
                         .keep2 = static_cast<float>(group.beta2),
                         .absorb2 = static_cast<float>(1.0 - group.beta2),
                         .step = corrections.step,
                         .root = corrections.root,
                         .epsilon = static_cast<float>(group.epsilon),
                         .decay = decay};
  const float* g = gradient.f32();
  float* m = first.f32();
  float* v = second.f32();
  if (on_gpu(parameter))
    return digest_on_gpu(later, stream, [&](std::uint64_t* digest) {
      cuda_optim().apply_adamw(adam, g, m, v, parameter, digest, stream);
    });
  return for_each_row(parameter, [&](std::int64_t row) {
    return apply_adamw_row(row_run(parameter, row), g + row * gradient.stride[0],
                           m + row * first.stride[0], v + row * second.stride[0],
                           parameter.shape.cols, adam);
  });
}

std::uint64_t apply_decay(RateFactors factors, const Parameter& parameter, Stream& stream,
                          std::uint64_t* later) {
  require_parameter(parameter);
  if (on_gpu(parameter))
    return digest_on_gpu(later, stream, [&](std::uint64_t* digest) {
      cuda_optim().apply_decay(factors.decay, parameter, digest, stream);
    });
  return for_each_row(parameter, [&](std::int64_t row) {
    return apply_decay_row(row_run(parameter, row), parameter.shape.cols, factors);
  });
}

}  // namespace ballot
