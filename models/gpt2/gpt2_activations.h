// The memory of a GPT-2's forward and backward passes: taken for the largest batch seen, then
// reused.
//
// Per layer and token: two residual rows (f32), [v | k | q], the attention's output, the MLP's
// input to its activation and a few scalars. Norm outputs and activations are written again by the
// backward, so one copy of each serves all layers. With Keep::inputs a layer keeps the residual row
// that it begins with, and all layers share the rest, which the backward computes again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/buffer.h"              // Buffer
#include "core/tensor.h"              // Tensor
#include "models/gpt2/gpt2_config.h"  // Gpt2Config
#include "models/keep.h"              // Keep
#include "models/model.h"             // ActivationMemory
#include "models/ops/attention.h"     // AttentionShape

namespace ballot {

// Rows of a fixed width; grows, never shrinks.
class GrowingRows {
 public:
  GrowingRows() = default;
  GrowingRows(DType type, std::int64_t cols) : type_(type), cols_(cols) {}
  std::int64_t size_bytes(std::int64_t rows) const {
    return rows * cols_ * static_cast<std::int64_t>(ballot::size_bytes(type_));
  }
  void reserve(std::int64_t rows) {
    const auto bytes = static_cast<std::size_t>(size_bytes(rows));
    if (buffer_.size_bytes() >= bytes) return;
    buffer_ = Buffer();  // give back first: both at once may not fit
    buffer_ = Buffer(bytes);
  }
  Tensor rows(std::int64_t count) const {
    return make_tensor(buffer_.data(), type_, {count, cols_});
  }
  std::int64_t cols() const { return cols_; }

 private:
  DType type_ = DType::f32;
  std::int64_t cols_ = 0;
  Buffer buffer_;
};

// What the backward reads of one layer's forward, N rows of it.
struct Gpt2LayerActivations {
  Tensor x;            // (N, C) f32, the residual stream before attention
  Tensor x_mid;        // (N, C) f32, and before the MLP
  Tensor vkq;          // (N, 3C); its gradient in the backward
  Tensor attended;     // (N, C)
  Tensor z;            // (N, I) before the activation; its gradient in the backward
  Tensor moments;      // (N, 2) f32 of the norm before attention
  Tensor moments_mid;  // (N, 2) f32 of the norm before the MLP
  Tensor log_sum_exp;  // (N, H) f32
};

struct Gpt2Activations {
  Gpt2Activations(const Gpt2Config& config, DType compute);

  // Room for a batch of this shape. Without a backward `keep` is nothing.
  void reserve(const AttentionShape& shape, Keep keep);
  // What a first reserve() takes.
  ActivationMemory memory(const AttentionShape& shape, Keep keep) const;
  Gpt2LayerActivations layer(std::int64_t l, std::int64_t rows, Keep keep) const;

  DType compute;
  GrowingRows x;           // (N, C) f32, the residual stream after the last layer
  GrowingRows moments;     // (N, 2) f32
  GrowingRows positions;   // (N, C) f32, rows of the table of positions
  GrowingRows h;           // (N, C) a norm's output
  GrowingRows act;         // (N, I); its gradient on the way
  GrowingRows dx;          // (N, C) f32, gradient of the residual stream
  GrowingRows dx_rounded;  // (N, C) bf16; empty in f32
  GrowingRows dh;          // (N, C) f32
  GrowingRows dattended;   // (N, C)
  GrowingRows logits;      // (chunk, V) f32
  GrowingRows dlogits;     // (chunk, V) bf16; empty in f32
  GrowingRows all_logits;  // (N, V) f32, where a caller asked for them
  GrowingRows partials;    // f32, of the norms
  GrowingRows losses;      // (N + 1) double, as pairs of f32; the last for their sum
  GrowingRows attention_scratch;

 private:
  enum class Owner { layer, shared, scratch };
  // visit(memory, how many rows, owner) for all that a batch of this shape needs.
  template <class Self, class Visit>
  static void each(Self& self, const AttentionShape& shape, Keep keep, const Visit& visit);

  struct Layer {
    GrowingRows x, x_mid, vkq, attended, z, moments, moments_mid, log_sum_exp;
  };
  std::vector<Layer> layers_;
};

}  // namespace ballot
