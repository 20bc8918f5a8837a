// A GPT-2's forward over N rows of tokens, written as the products and passes it consists of. Who
// attends to what is the caller's: training and generating differ in nothing else.
#pragma once

#include <cstdint>
#include <span>

#include "models/gpt2/gpt2_activations.h"  // Gpt2Activations
#include "models/gpt2/gpt2_weights.h"      // Gpt2Weights
#include "models/ops/embedding.h"
#include "models/ops/gelu.h"
#include "models/ops/layer_norm.h"

namespace ballot {

struct Gpt2Forward {
  const Gpt2Weights& weights;
  Gpt2Activations& memory;
  float epsilon;
  Stream& stream;

  // x += addend, then the norm's output into memory.h.
  void norm(const Tensor& x, const Tensor& addend, const Gpt2Norm& norm,
            const Tensor& moments) const {
    layer_norm(x, addend, norm.gain->value, norm.bias->value, epsilon, memory.h.rows(x.extent[0]),
               moments.f32());
  }

  // What a layer's backward reads, from a.x (to which `addend` is added first, if it is one) on.
  // attend(a): from a.vkq to a.attended.
  template <class Attend>
  void layer(const Gpt2Layer& layer, const Gpt2LayerActivations& a, const Tensor& addend,
             const Attend& attend) const {
    const Tensor h = memory.h.rows(a.x.extent[0]);
    norm(a.x, addend, layer.before_attention, a.moments);
    layer.vkq.forward(h, a.vkq);
    attend(a);
    layer.output.forward(a.attended, a.x_mid);
    norm(a.x_mid, a.x, layer.before_mlp, a.moments_mid);
    layer.fc.forward(h, a.z);
  }

  // The whole model: leaves the final norm's output in memory.h. `places`: where each token stands
  // in its text. attend(l, a) for each layer.
  template <class Attend>
  void run(std::span<const std::int32_t> tokens, std::span<const std::int32_t> places, Keep keep,
           const Attend& attend) const {
    const auto rows = static_cast<std::int64_t>(tokens.size());
    const auto layers = static_cast<std::int64_t>(weights.layers.size());
    const auto input_of = [&](std::int64_t l) {
      return l < layers ? memory.layer(l, rows, keep).x : memory.x.rows(rows);
    };
    const Tensor act = memory.act.rows(rows);
    Tensor residual = memory.positions.rows(rows);  // to be added to x by the next norm
    embedding(weights.tokens->compute, tokens, input_of(0), stream);
    embedding(weights.positions->compute, places, residual, stream);
    for (std::int64_t l = 0; l < layers; ++l) {
      const Gpt2Layer& w = weights.layers[static_cast<std::size_t>(l)];
      const Gpt2LayerActivations a = memory.layer(l, rows, keep);
      layer(w, a, residual, [&](const Gpt2LayerActivations& of) { attend(l, of); });
      gelu(a.z, act);
      w.mlp_output.forward(act, input_of(l + 1));
      residual = a.x_mid;
    }
    norm(memory.x.rows(rows), residual, weights.final_norm, memory.moments.rows(rows));
  }

  void head(const Tensor& h, const Tensor& logits) const {
    matmul(h, weights.head->compute.transposed(), logits, Accumulate::no, stream);
  }
};

}  // namespace ballot
