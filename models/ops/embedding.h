// The token table: a row per token forward, sums of rows per token backward.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"  // Tensor

namespace ballot {

// x[n] = table[tokens[n]]; table (V, C) f32 or bf16 with any row stride, x (N, C) f32 contiguous.
void embedding(const Tensor& table, std::span<const std::int32_t> tokens, const Tensor& x);

// dtable[tokens[n]] += dx[n] for n in order, whatever the team's size: threads own columns, not
// rows.
void embedding_backward(std::span<const std::int32_t> tokens, const Tensor& dx,
                        const Tensor& dtable);

}  // namespace ballot
