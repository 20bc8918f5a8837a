// A Llama's forward over N rows of tokens, written as the products and passes it consists of. Who
// attends to what is the caller's: training and generating differ in nothing else.
#pragma once

#include <cstdint>
#include <span>

#include "models/llama/llama_activations.h"  // LlamaActivations, LayerActivations
#include "models/llama/llama_weights.h"      // LlamaWeights
#include "models/ops/embedding.h"
#include "models/ops/rms_norm.h"
#include "models/ops/swiglu.h"

namespace ballot {

struct LlamaForward {
  const LlamaWeights& weights;
  LlamaActivations& memory;
  float epsilon;
  Stream& stream;

  // x += addend, then the norm's output into memory.h.
  void norm(const Tensor& x, const Tensor& addend, const Parameter& gain, const Tensor& r) const {
    rms_norm(x, addend, gain.value, epsilon, memory.h.rows(x.extent[0]), r.f32(), stream);
  }

  // What a layer's backward reads, from a.x (to which `addend` is added first, if it is one) on.
  // attend(a): from a.vkq to a.attended.
  template <class Attend>
  void layer(const LlamaLayer& layer, const LayerActivations& a, const Tensor& addend,
             const Attend& attend) const {
    const Tensor h = memory.h.rows(a.x.extent[0]);
    norm(a.x, addend, *layer.input_norm, a.r);
    layer.vkq.forward(h, a.vkq);
    attend(a);
    layer.output.forward(a.attended, a.x_mid);
    norm(a.x_mid, a.x, *layer.mlp_norm, a.r_mid);
    layer.up_gate.forward(h, a.up_gate);
  }

  // The whole model: leaves the final norm's output in memory.h. attend(l, a) for each layer.
  template <class Attend>
  void run(std::span<const std::int32_t> tokens, Keep keep, const Attend& attend) const {
    const auto rows = static_cast<std::int64_t>(tokens.size());
    const auto layers = static_cast<std::int64_t>(weights.layers.size());
    const auto input_of = [&](std::int64_t l) {
      return l < layers ? memory.layer(l, rows, keep).x : memory.x.rows(rows);
    };
    const Tensor act = memory.act.rows(rows);
    Tensor residual;  // to be added to x by the next norm
    embedding(weights.table->compute, tokens, input_of(0), stream);
    for (std::int64_t l = 0; l < layers; ++l) {
      const LlamaLayer& w = weights.layers[static_cast<std::size_t>(l)];
      const LayerActivations a = memory.layer(l, rows, keep);
      layer(w, a, residual, [&](const LayerActivations& of) { attend(l, of); });
      swiglu(a.up_gate, act, stream);
      w.mlp_down.forward(act, input_of(l + 1));
      residual = a.x_mid;
    }
    norm(memory.x.rows(rows), residual, *weights.final_norm, memory.r.rows(rows));
  }
};

}  // namespace ballot
