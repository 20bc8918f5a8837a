// The token table: a row per token forward, sums of rows per token backward. Tokens lie where the
// tensors do.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"  // Stream, Tensor

namespace ballot {

// x[n] = table[tokens[n]]; table (V, C) f32 or bf16 with any row stride, x (N, C) f32 contiguous.
void embedding(const Tensor& table, std::span<const std::int32_t> tokens, const Tensor& x,
               Stream& stream);

// dtable[tokens[n]] += dx[n] for n in order, whatever the team's size: on the CPU threads own
// columns, not rows; on a GPU tokens are sorted first. The bits are the same on both. `scratch`
// holds embedding_scratch_bytes, aligned to 8; null where that is 0.
void embedding_backward(std::span<const std::int32_t> tokens, const Tensor& dx,
                        const Tensor& dtable, std::byte* scratch, Stream& stream);
std::int64_t embedding_scratch_bytes(std::int64_t rows, Device device);

}  // namespace ballot
