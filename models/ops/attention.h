// Causal grouped-query attention with rotary positions, forward and backward (Vaswani et al. 2017;
// Ainslie et al. 2023, arXiv:2305.13245). Probabilities are computed again in the backward from
// log-sum-exps (Dao et al. 2022, arXiv:2205.14135); of the scores only a block of query rows exists
// at a time, small enough for a core's cache.
//
// `vkq` (N, (2K + H) D) holds for each token [values | keys | queries] before rotation, N = B T,
// f32 or bf16; output (N, H D) of the same type. Scores and softmax are fp32; in bf16 the operands
// of products (rotated queries and keys, probabilities, score gradients) are rounded to bf16. On
// the CPU work is divided over (sequence, key/value head), each on one thread, so the bits do not
// depend on the team's size.
//
// Where several documents share a row (AttentionShape::document_starts), a query sees its own
// document's keys only. The CPU multiplies a block of queries with the keys from the block's first
// document on; a GPU with all keys up to the block's last query, and masks.
#pragma once

#include <cstdint>

#include "core/tensor.h"      // Stream, Tensor
#include "models/ops/rope.h"  // RopeTable

namespace ballot {

struct AttentionShape {
  std::int64_t sequences = 0;        // B
  std::int64_t length = 0;           // T
  std::int64_t heads = 0;            // H
  std::int64_t key_value_heads = 0;  // K, divides H
  std::int64_t head_size = 0;        // D
  // (B, T): for each position, that of its row where its document begins; nothing before it is
  // attended to. Never falls within a row and is at most the position itself. Lies where the
  // tensors do; null: one document a row.
  const std::int32_t* document_starts = nullptr;

  constexpr std::int64_t group() const { return heads / key_value_heads; }
  constexpr std::int64_t width() const {
    return (2 * key_value_heads + heads) * head_size;
  }  // of vkq
};

// What forward or backward needs, bytes, linear in T; on the CPU for each of thread_count()
// threads. Scratch lies where the tensors do, aligned to 64 (on a GPU to 256).
std::int64_t attention_scratch_bytes(const AttentionShape& shape, DType type, Device device);

// log_sum_exp (B, H, T) is kept for the backward. The rope table must reach T and lie where the
// tensors do.
void attention(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
               const Tensor& output, float* log_sum_exp, std::byte* scratch, Stream& stream);

// In place: on return vkq holds the gradients of what it held.
void attention_backward(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
                        const Tensor& output, const Tensor& doutput, const float* log_sum_exp,
                        std::byte* scratch, Stream& stream);

}  // namespace ballot
