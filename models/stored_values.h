// Numbers as checkpoints store them <-> fp32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "models/safetensors.h"  // StoredType

namespace ballot {

// f32, f16 or bf16: what parameters may be stored as.
bool is_float(StoredType type);

// `count` numbers of such a type, at any address -> fp32, exactly (halves with their subnormals,
// infinities and NaN).
void widen(StoredType type, const std::byte* source, float* target, std::int64_t count);

// fp32 -> f32 or bf16 (rounded to nearest even), at any address.
void narrow(const float* source, StoredType type, std::byte* target, std::int64_t count);

}  // namespace ballot
