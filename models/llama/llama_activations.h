// The memory of a Llama's forward and backward passes, on its device: taken for the largest batch
// seen, then reused.
//
// Per layer and token: two residual rows (f32), [v | k | q], the attention's output, [up | gate]
// and a few scalars. Norm outputs and MLP activations are written again by the backward, so one
// copy of each serves all layers. With Keep::inputs a layer keeps the residual row that it begins
// with, and all layers share the rest, which the backward computes again.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"                // Buffer
#include "core/tensor.h"                // Tensor
#include "models/growing_matrix.h"      // GrowingMatrix
#include "models/keep.h"                // Keep
#include "models/llama/llama_config.h"  // LlamaConfig
#include "models/model.h"               // ActivationMemory
#include "models/ops/attention.h"       // AttentionShape

namespace ballot {

// What the backward reads of one layer's forward, N rows of it.
struct LayerActivations {
  Tensor x;            // (N, C) f32, the residual stream before attention
  Tensor x_mid;        // (N, C) f32, and before the MLP
  Tensor vkq;          // (N, (2K + H) D); its gradient in the backward
  Tensor attended;     // (N, H D)
  Tensor up_gate;      // (N, 2I); its gradient in the backward
  Tensor r;            // (N, 1) f32, inverse rms before attention
  Tensor r_mid;        // (N, 1) f32, and before the MLP
  Tensor log_sum_exp;  // (N, H) f32
};

class LlamaActivations {
 public:
  LlamaActivations(const LlamaConfig& config, DType compute, Device device);

  // Room for a batch of this shape. Without a backward `keep` is nothing.
  void reserve(const AttentionShape& shape, Keep keep);
  void reserve_all_logits(std::int64_t rows);
  // What a first reserve() takes.
  ActivationMemory memory(const AttentionShape& shape, Keep keep) const;
  LayerActivations layer(std::int64_t l, std::int64_t rows, Keep keep) const;

  DType compute;
  Device device;
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
  GrowingMatrix idle_gain;   // (1, C) f32: the gradient of a gain that is not trained
  Buffer attention_scratch;
  Buffer embedding_scratch;
  Buffer norm_partials;    // float
  Buffer losses;           // (N + 1) double, the last for their sum
  Buffer inputs;           // (N) int32, the batch's tokens; on the CPU they stay where they are
  Buffer targets;          // (N) int32
  Buffer document_starts;  // (N) int32

 private:
  struct Layer {
    GrowingMatrix x, x_mid, vkq, attended, up_gate, r, r_mid, log_sum_exp;
  };
  enum class Owner { layer, shared, scratch };
  // visit(buffer, bytes, owner) for everything that a batch of this shape needs.
  template <class Self, class Visit>
  static void each_buffer(Self& self, const AttentionShape& shape, Keep keep, const Visit& visit);

  std::vector<Layer> layers_;
};

}  // namespace ballot
