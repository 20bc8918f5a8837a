// Softmax cross-entropy of rows of logits and its gradient, fused: one read of the logits gives
// both.
//
// A caller passes a chunk of rows at a time, so that the logits of a whole batch never exist at
// once. f32; dlogits may be the logits themselves (f32) or a bf16 copy for products. Rows whose
// target is kNoTarget lose nothing and get a gradient of zero. Targets and losses lie where the
// logits do.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"  // Stream, Tensor

namespace ballot {

// Rows of a chunk: on the CPU about 8 MiB of f32 logits, which a cache holds, but 256 rows where
// those have no more than 128 MiB, and at least 16; on a GPU 1 GiB. Every chunk reads and writes
// the head's whole gradient once more: with a vocabulary of 128k and C = 2048 2 GB, as much as
// 4,000 rows of logits.
std::int64_t cross_entropy_chunk_rows(std::int64_t vocabulary, Device device);

// losses[n] = log(sum exp(logits[n])) - logits[n][targets[n]], in nats.
void cross_entropy(const Tensor& logits, std::span<const std::int32_t> targets, double* losses,
                   Stream& stream);

// The same, and dlogits = scale * (softmax(logits) - onehot(target)). Overwrites the logits.
void cross_entropy_with_gradient(const Tensor& logits, std::span<const std::int32_t> targets,
                                 float scale, double* losses, const Tensor& dlogits,
                                 Stream& stream);

// losses[0] + losses[1] + ... of `count`, always in the same order; losses has room for one more,
// which is overwritten. Waits for the stream.
double sum_losses(double* losses, std::int64_t count, Stream& stream);

}  // namespace ballot
