// What attention over a batch and attention over a cache have in common on the CPU: softmax and
// scaling of a block of query rows, single-threaded, between two products on the same thread.
#pragma once

#include <cstdint>

#include "core/bfloat16.h"  // bfloat16

namespace ballot {

// Scores s (rows, keys) of queries at positions first, first + 1, ... over keys from position
// `base` on; row i sees keys from starts[i] (null: base) to its own position. Leaves exp(s - max)
// in p, zeros where masked, 1 / sum in inverse_sum and log(sum exp) in lse. f32: p is s.
void softmax_rows(float* s, float* p, std::int64_t rows, std::int64_t keys, std::int64_t first,
                  std::int64_t base, const std::int32_t* starts, float* inverse_sum, float* lse);
void softmax_rows(float* s, bfloat16* p, std::int64_t rows, std::int64_t keys, std::int64_t first,
                  std::int64_t base, const std::int32_t* starts, float* inverse_sum, float* lse);

// y = x * factor[row], into rows y_stride apart.
void scale_rows(const float* x, const float* factor, std::int64_t rows, std::int64_t cols, float* y,
                std::int64_t y_stride);
void scale_rows(const float* x, const float* factor, std::int64_t rows, std::int64_t cols,
                bfloat16* y, std::int64_t y_stride);

}  // namespace ballot
