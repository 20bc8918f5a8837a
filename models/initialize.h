// Fresh parameters of a transformer: counter-based normal numbers, so that they depend on nothing
// but the seed and the place.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/parameter_arena.h"  // ParameterArena

namespace ballot {

// Matrices and tables: Normal(0, range), those whose names end in one of `residual_branches` scaled
// by 1/sqrt(2L) (GPT-2's rule). Vectors: biases zero, gains one. Whatever the thread count; what
// products read is fresh on return.
void initialize_transformer(const ParameterArena& arena, std::uint64_t seed, double range,
                            std::int64_t layers,
                            std::span<const std::string_view> residual_branches);

}  // namespace ballot
