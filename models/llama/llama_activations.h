// The memory of a Llama's forward and backward passes, on its device: taken for the largest batch
// seen, then reused.
//
// Per layer and token: two residual rows (f32), [v | k | q], the attention's output, [up | gate]
// and a few scalars. Norm outputs and MLP activations are written again by the backward, so one
// copy of each serves all layers.
#pragma once

#include <vector>

#include "core/buffer.h"                // Buffer
#include "core/tensor.h"                // Tensor
#include "models/llama/llama_config.h"  // LlamaConfig
#include "models/ops/attention.h"       // AttentionShape

namespace ballot {

// Grows, never shrinks; views its first rows.
class GrowingMatrix {
 public:
  GrowingMatrix() = default;
  GrowingMatrix(DType type, std::int64_t cols) : type_(type), cols_(cols) {}
  void reserve(std::int64_t rows, Device device);
  Tensor rows(std::int64_t count) const {
    return make_tensor(buffer_.data(), type_, {count, cols_}, buffer_.device());
  }

 private:
  DType type_ = DType::f32;
  std::int64_t cols_ = 0;
  Buffer buffer_;
};

struct LayerActivations {
  GrowingMatrix x;            // (N, C) f32, the residual stream before attention
  GrowingMatrix x_mid;        // (N, C) f32, and before the MLP
  GrowingMatrix vkq;          // (N, (2K + H) D); its gradient in the backward
  GrowingMatrix attended;     // (N, H D)
  GrowingMatrix up_gate;      // (N, 2I); its gradient in the backward
  GrowingMatrix r;            // (N, 1) f32, inverse rms before attention
  GrowingMatrix r_mid;        // (N, 1) f32, and before the MLP
  GrowingMatrix log_sum_exp;  // (N, H) f32
};

struct LlamaActivations {
  LlamaActivations(const LlamaConfig& config, DType compute, Device device);

  // Room for a batch of this shape; with `backward`, every layer keeps its own.
  void reserve(const AttentionShape& shape, bool backward);
  // A forward that nothing follows uses the first layer's memory for all.
  const LayerActivations& layer(std::int64_t l, bool backward) const {
    return layers[backward ? l : 0];
  }

  DType compute;
  Device device;
  std::vector<LayerActivations> layers;
  GrowingMatrix x;           // (N, C) f32, the residual stream after the last layer
  GrowingMatrix r;           // (N, 1) f32
  GrowingMatrix h;           // (N, C) a norm's output
  GrowingMatrix act;         // (N, I); its gradient on the way
  GrowingMatrix dx;          // (N, C) f32, gradient of the residual stream
  GrowingMatrix dx_rounded;  // (N, C) bf16; empty in f32
  GrowingMatrix dh;          // (N, C) f32
  GrowingMatrix dattended;   // (N, H D)
  GrowingMatrix logits;      // (chunk, V) f32
  GrowingMatrix dlogits;     // (chunk, V) bf16; empty in f32
  GrowingMatrix all_logits;  // (N, V) f32, where a caller asked for them
  Buffer attention_scratch;
  Buffer embedding_scratch;
  Buffer norm_partials;  // float
  Buffer losses;         // (N + 1) double, the last for their sum
  Buffer inputs;         // (N) int32, the batch's tokens; on the CPU they stay where they are
  Buffer targets;        // (N) int32
};

}  // namespace ballot
