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
#include "models/growing_matrix.h"    // GrowingMatrix
#include "models/keep.h"              // Keep
#include "models/model.h"             // ActivationMemory
#include "models/ops/attention.h"     // AttentionShape

namespace ballot {

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
  GrowingMatrix x;           // (N, C) f32, the residual stream after the last layer
  GrowingMatrix moments;     // (N, 2) f32
  GrowingMatrix positions;   // (N, C) f32, rows of the table of positions
  GrowingMatrix h;           // (N, C) a norm's output
  GrowingMatrix act;         // (N, I); its gradient on the way
  GrowingMatrix dx;          // (N, C) f32, gradient of the residual stream
  GrowingMatrix dx_rounded;  // (N, C) bf16; empty in f32
  GrowingMatrix dh;          // (N, C) f32
  GrowingMatrix dattended;   // (N, C)
  GrowingMatrix logits;      // (chunk, V) f32
  GrowingMatrix dlogits;     // (chunk, V) bf16; empty in f32
  GrowingMatrix all_logits;  // (N, V) f32, where a caller asked for them
  GrowingMatrix partials;    // f32, of the norms
  GrowingMatrix losses;      // (N + 1) double, as pairs of f32; the last for their sum
  GrowingMatrix attention_scratch;

 private:
  enum class Owner { layer, shared, scratch };
  // visit(memory, how many rows, owner) for all that a batch of this shape needs.
  template <class Self, class Visit>
  static void each(Self& self, const AttentionShape& shape, Keep keep, const Visit& visit);

  struct Layer {
    GrowingMatrix x, x_mid, vkq, attended, z, moments, moments_mid, log_sum_exp;
  };
  std::vector<Layer> layers_;
};

}  // namespace ballot
