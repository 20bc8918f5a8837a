#include "models/stored_values.h"

#include <bit>
#include <cstring>

#include "core/bfloat16.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

// Addresses are bytes: a tensor in a file may lie at any.
BALLOT_VECTORIZED void widen_bf16(const std::byte* __restrict source, float* __restrict target,
                                  std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, source + 2 * i, 2);
    target[i] = to_float(bfloat16{bits});
  }
}

// IEEE half -> single, exact, subnormals, infinities and NaN included.
BALLOT_VECTORIZED void widen_f16(const std::byte* __restrict source, float* __restrict target,
                                 std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t half;
    std::memcpy(&half, source + 2 * i, 2);
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
    const std::uint32_t normal = rest + (112u << 23);   // exponent bias 15 -> 127
    const std::uint32_t special = rest + (224u << 23);  // exponent 31 -> 255
    // A subnormal is rest * 2^112 in single: put a one above the fraction, subtract it again.
    const float tiny = std::bit_cast<float>(rest + (113u << 23)) - std::bit_cast<float>(113u << 23);
    const std::uint32_t exponent = half & 0x7c00u;
    const std::uint32_t magnitude = exponent == 0         ? std::bit_cast<std::uint32_t>(tiny)
                                    : exponent == 0x7c00u ? special
                                                          : normal;
    target[i] = std::bit_cast<float>(sign | magnitude);
  }
}

BALLOT_VECTORIZED void narrow_bf16(const float* __restrict source, std::byte* __restrict target,
                                   std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const bfloat16 rounded = to_bfloat16(source[i]);
    std::memcpy(target + 2 * i, &rounded, 2);
  }
}

}  // namespace

bool is_float(StoredType type) {
  return type == StoredType::f32 || type == StoredType::f16 || type == StoredType::bf16;
}

void widen(StoredType type, const std::byte* source, float* target, std::int64_t count) {
  require(is_float(type), "parameters stored as {}", to_string(type));
  if (type == StoredType::f32) {
    std::memcpy(target, source, static_cast<std::size_t>(count) * 4);
  } else if (type == StoredType::bf16) {
    widen_bf16(source, target, count);
  } else {
    widen_f16(source, target, count);
  }
}

void narrow(const float* source, StoredType type, std::byte* target, std::int64_t count) {
  require(type == StoredType::f32 || type == StoredType::bf16, "parameters saved as {}",
          to_string(type));
  if (type == StoredType::f32) {
    std::memcpy(target, source, static_cast<std::size_t>(count) * 4);
  } else {
    narrow_bf16(source, target, count);
  }
}

}  // namespace ballot
