// Softmax cross-entropy of rows of logits and its gradient, fused: one read of the logits gives
// both.
//
// A caller passes a chunk of rows at a time, so that the logits of a whole batch never exist at
// once. f32; dlogits may be the logits themselves (f32) or a bf16 copy for products. Rows whose
// target is kNoTarget lose nothing and get a gradient of zero.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"  // Tensor

namespace ballot {

// Rows of a chunk: at most about 8 MB of f32 logits, at least 16 rows.
std::int64_t cross_entropy_chunk_rows(std::int64_t vocabulary);

// losses[n] = log(sum exp(logits[n])) - logits[n][targets[n]], in nats.
void cross_entropy(const Tensor& logits, std::span<const std::int32_t> targets, double* losses);

// The same, and dlogits = scale * (softmax(logits) - onehot(target)). Overwrites the logits.
void cross_entropy_with_gradient(const Tensor& logits, std::span<const std::int32_t> targets,
                                 float scale, double* losses, const Tensor& dlogits);

}  // namespace ballot
