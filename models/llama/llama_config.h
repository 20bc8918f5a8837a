// The shape of a Llama, as Hugging Face's config.json states it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/parameter.h"   // ParameterShape
#include "models/ops/rope.h"  // RopeScaling

namespace ballot {

struct LlamaConfig {
  std::int64_t hidden_size = 0;  // C
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;           // L
  std::int64_t heads = 0;            // H
  std::int64_t key_value_heads = 0;  // K, divides H
  std::int64_t head_size = 0;        // D, even; C / H unless head_dim says otherwise
  std::int64_t vocabulary = 0;       // V
  std::int64_t max_positions = 0;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling = {};
  double rms_norm_epsilon = 1e-5;
  double initializer_range = 0.02;
  bool tied_head = false;
  bool attention_bias = false;           // of q_proj, k_proj, v_proj and o_proj
  bool mlp_bias = false;                 // of gate_proj, up_proj and down_proj
  std::int64_t bos_token = -1;           // -1: none
  std::vector<std::int64_t> eos_tokens;  // any of them ends a text
};

// Parses and validates config.json's text; everything wrong is reported at once, by key, value and
// what was expected (DataError). What this reader does not support (other kinds of rope scaling,
// other activations) is refused by name.
LlamaConfig parse_llama_config(const std::string& json_text, const std::string& path);
// A config.json that transformers reads.
std::string to_json(const LlamaConfig& config);

// In backward order, which is the order the model reports gradients in: lm_head (none where tied),
// model.norm, then for each layer from last to first mlp.down_proj, up_proj, gate_proj,
// post_attention_layernorm, self_attn.o_proj, v_proj, k_proj, q_proj, input_layernorm;
// model.embed_tokens last. Biases follow the weights they are multiplied with: down's; up's and
// gate's; o's; v's, k's and q's. Neighbours in this order (up and gate; v, k and q) are multiplied
// as one matrix wherever the arena leaves no gap between them.
std::vector<ParameterShape> llama_parameter_shapes(const LlamaConfig& config);

}  // namespace ballot
