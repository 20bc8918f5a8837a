// Causal grouped-query attention of new positions over all that came before, whose rotated keys and
// values are kept: what generating a text token by token needs. On the CPU.
//
// The arithmetic is attention.h's: scores and softmax in fp32, operands of products in the tensors'
// type. Work is divided over (sequence, key/value head), each on one thread.
#pragma once

#include <cstdint>
#include <span>

#include "core/buffer.h"           // Buffer
#include "models/ops/attention.h"  // AttentionShape, RopeTable

namespace ballot {

// Of one layer: for each (sequence, key/value head) the keys, rotated, and the values of `capacity`
// positions.
class AttentionCache {
 public:
  // Of `shape` the length is the capacity, rounded up to whole vectors.
  AttentionCache(const AttentionShape& shape, DType type);
  std::int64_t capacity() const { return capacity_; }
  DType type() const { return type_; }
  // (capacity, D) of one sequence and head.
  template <class T>
  T* keys(std::int64_t sequence, std::int64_t kv_head) const {
    return reinterpret_cast<T*>(keys_.data()) + item(sequence, kv_head);
  }
  template <class T>
  T* values(std::int64_t sequence, std::int64_t kv_head) const {
    return reinterpret_cast<T*>(values_.data()) + item(sequence, kv_head);
  }

 private:
  std::int64_t item(std::int64_t sequence, std::int64_t kv_head) const {
    return (sequence * kv_heads_ + kv_head) * capacity_ * head_size_;
  }
  std::int64_t capacity_, kv_heads_, head_size_;
  DType type_;
  Buffer keys_, values_;
};

// New positions of one sequence: rows [first_row, first_row + rows) of vkq stand at `position` and
// on.
struct NewPositions {
  std::int64_t sequence = 0;
  std::int64_t first_row = 0, rows = 0;
  std::int64_t position = 0;
};

// vkq as attention.h's; a sequence is in `all` at most once. The cache takes their keys and values
// up; the rope table must reach them.
void attention_cached(const AttentionShape& shape, const RopeTable& rope, const Tensor& vkq,
                      std::span<const NewPositions> all, AttentionCache& cache,
                      const Tensor& output, std::byte* scratch, Stream& stream);
std::int64_t attention_cached_scratch_bytes(const AttentionShape& shape,
                                            const AttentionCache& cache);

}  // namespace ballot
