// The shape of a GPT-2, as Hugging Face's config.json states it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/parameter.h"  // ParameterShape

namespace ballot {

struct Gpt2Config {
  std::int64_t hidden_size = 0;  // C
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;      // L
  std::int64_t heads = 0;       // H
  std::int64_t head_size = 0;   // D = C / H, even
  std::int64_t vocabulary = 0;  // V
  std::int64_t max_positions = 0;
  double layer_norm_epsilon = 1e-5;
  double initializer_range = 0.02;
  bool tied_head = true;
  std::int64_t bos_token = -1;  // -1: none
  std::vector<std::int64_t> eos_tokens;
};

// Parses and validates config.json's text; everything wrong is reported at once, by key, value and
// what was expected (DataError). What this reader does not support (cross-attention, scores scaled
// otherwise, other activations) is refused by name. The dropout rates are read over: Ballot trains
// without dropout.
Gpt2Config parse_gpt2_config(const std::string& json_text, const std::string& path);
// A config.json that transformers reads.
std::string to_json(const Gpt2Config& config);

// In backward order, which is the order the model reports gradients in: lm_head (none where tied),
// transformer.ln_f, then for each layer from last to first mlp.c_proj, mlp.c_fc, ln_2, attn.c_proj,
// attn.c_attn, ln_1; wpe and wte last. Of a pair the weight stands before the bias.
//
// Matrices lie as the checkpoints store them, (in, out): c_attn is (C, 3C) with columns [q | k |
// v], and is orthogonalised as one matrix. That is the transpose of a Llama's (out, in), which
// neither Newton-Schulz nor the shape factors of OLion and Muon (max(rows, cols)) see. Positions
// are an untied embedding: under a vote a position that no sequence of the batch reaches abstains.
std::vector<ParameterShape> gpt2_parameter_shapes(const Gpt2Config& config);

}  // namespace ballot
