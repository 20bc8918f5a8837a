// The slow truth of models/llama/llama_model.h: a Llama's loss on any scalar, from parameters by
// name, unpadded.
//
// With std::complex<double> a derivative along any direction is one forward (complex step).
#pragma once

#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

#include "models/llama/llama_config.h"
#include "models/model.h"  // TokenBatch
#include "models/ops/attention_reference.h"
#include "models/ops/bias_reference.h"
#include "models/ops/cross_entropy_reference.h"
#include "models/ops/embedding_reference.h"
#include "models/ops/rms_norm_reference.h"
#include "models/ops/swiglu_reference.h"

namespace ballot::reference {

template <class S>
using Parameters = std::map<std::string, std::vector<S>>;

// y (N, rows) = x (N, cols) W^T, W (rows, cols).
template <class S>
std::vector<S> linear(const std::vector<S>& x, const std::vector<S>& weight, std::int64_t cols) {
  std::vector<S> y;
  for (auto row = x.begin(); row != x.end(); row += cols)
    for (auto w = weight.begin(); w != weight.end(); w += cols) {
      S sum = 0.0;
      for (std::int64_t c = 0; c < cols; ++c) sum += row[c] * w[c];
      y.push_back(sum);
    }
  return y;
}

// Columns of a and b side by side.
template <class S>
std::vector<S> beside(const std::vector<S>& a, const std::vector<S>& b, std::size_t rows) {
  std::vector<S> both;
  for (std::size_t n = 0; n < rows; ++n) {
    both.insert(both.end(), a.begin() + n * (a.size() / rows),
                a.begin() + (n + 1) * (a.size() / rows));
    both.insert(both.end(), b.begin() + n * (b.size() / rows),
                b.begin() + (n + 1) * (b.size() / rows));
  }
  return both;
}

template <class S>
void add(std::vector<S>& x, const std::vector<S>& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

// One layer's effect on the residual stream x (N, C).
template <class S>
void llama_layer(const LlamaConfig& config, const AttentionShape& shape,
                 const Parameters<S>& parameters, std::int64_t layer, std::vector<S>& x) {
  const auto get = [&](const char* name) -> const std::vector<S>& {
    return parameters.at(fmt::format("model.layers.{}.{}.weight", layer, name));
  };
  const auto affine = [&](const std::vector<S>& input, const char* name, std::int64_t cols) {
    std::vector<S> y = linear(input, get(name), cols);
    const auto bias = parameters.find(fmt::format("model.layers.{}.{}.bias", layer, name));
    if (bias != parameters.end()) add_bias(y, bias->second);
    return y;
  };
  const std::size_t rows = static_cast<std::size_t>(shape.sequences * shape.length);
  const std::int64_t width = config.hidden_size;
  std::vector<S> h = rms_norm(x, get("input_layernorm"), config.rms_norm_epsilon);
  const std::vector<S> vkq = beside(
      beside(affine(h, "self_attn.v_proj", width), affine(h, "self_attn.k_proj", width), rows),
      affine(h, "self_attn.q_proj", width), rows);
  add(x, affine(attention(shape, config.rope_theta, vkq, config.rope_scaling), "self_attn.o_proj",
                config.heads * config.head_size));
  h = rms_norm(x, get("post_attention_layernorm"), config.rms_norm_epsilon);
  const std::vector<S> up_gate =
      beside(affine(h, "mlp.up_proj", width), affine(h, "mlp.gate_proj", width), rows);
  add(x, affine(swiglu(up_gate, static_cast<std::size_t>(config.intermediate_size)),
                "mlp.down_proj", config.intermediate_size));
}

template <class S>
std::vector<S> llama_logits(const LlamaConfig& config, const Parameters<S>& parameters,
                            const TokenBatch& batch) {
  const std::int64_t width = config.hidden_size;
  const AttentionShape shape{
      batch.sequences,  batch.length,
      config.heads,     config.key_value_heads,
      config.head_size, batch.document_starts.empty() ? nullptr : batch.document_starts.data()};
  const std::vector<S>& table = parameters.at("model.embed_tokens.weight");
  std::vector<S> x = embedding(table, static_cast<std::size_t>(width), batch.inputs);
  for (std::int64_t l = 0; l < config.layers; ++l) llama_layer(config, shape, parameters, l, x);
  const std::vector<S> h = rms_norm(x, parameters.at("model.norm.weight"), config.rms_norm_epsilon);
  return linear(h, config.tied_head ? table : parameters.at("lm_head.weight"), width);
}

// Summed over counted positions.
template <class S>
S llama_loss(const LlamaConfig& config, const Parameters<S>& parameters, const TokenBatch& batch) {
  return cross_entropy(llama_logits(config, parameters, batch), batch.targets);
}

}  // namespace ballot::reference
