#include "models/llama/llama_weights.h"

#include <fmt/format.h>

#include <algorithm>

namespace ballot {
namespace {

LlamaLayer find_layer(const LlamaConfig& config, const ParameterArena& arena, std::int64_t l,
                      Stream& stream) {
  const auto find = [&](const char* name, const char* what = "weight") {
    return &arena.find(fmt::format("model.layers.{}.{}.{}", l, name, what));
  };
  const auto part = [&](const char* name, bool with_bias) {
    return Linear::Part{find(name), with_bias ? find(name, "bias") : nullptr};
  };
  const Linear::Part q = part("self_attn.q_proj", config.attention_bias);
  const Linear::Part k = part("self_attn.k_proj", config.attention_bias);
  const Linear::Part v = part("self_attn.v_proj", config.attention_bias);
  const Linear::Part o = part("self_attn.o_proj", config.attention_bias);
  const Linear::Part gate = part("mlp.gate_proj", config.mlp_bias);
  const Linear::Part up = part("mlp.up_proj", config.mlp_bias);
  const Linear::Part down = part("mlp.down_proj", config.mlp_bias);
  LlamaLayer layer{find("input_layernorm"),
                   find("post_attention_layernorm"),
                   Linear({v, k, q}, stream),
                   Linear({o}, stream),
                   Linear({up, gate}, stream),
                   Linear({down}, stream),
                   {},
                   {},
                   {},
                   {}};
  const auto order = [](std::vector<const Parameter*>& list,
                        std::initializer_list<Linear::Part> parts, const Parameter* norm) {
    for (const Linear::Part& p : parts) list.push_back(p.weight);
    for (const Linear::Part& p : parts)
      if (p.bias != nullptr) list.push_back(p.bias);
    if (norm != nullptr) list.push_back(norm);
  };
  order(layer.of_down, {down}, nullptr);
  order(layer.of_up_gate, {up, gate}, layer.mlp_norm);
  order(layer.of_output, {o}, nullptr);
  order(layer.of_vkq, {v, k, q}, layer.input_norm);
  return layer;
}

}  // namespace

bool LlamaLayer::is_trained() const {
  for (const auto* list : {&of_down, &of_up_gate, &of_output, &of_vkq})
    if (!std::ranges::all_of(*list, [](const Parameter* p) { return p->shape.frozen; }))
      return true;
  return false;
}

LlamaWeights::LlamaWeights(const LlamaConfig& config, const ParameterArena& arena, Stream& stream)
    : table(&arena.find("model.embed_tokens.weight")),
      head_parameter(config.tied_head ? table : &arena.find("lm_head.weight")),
      final_norm(&arena.find("model.norm.weight")),
      head({{head_parameter}}, stream) {
  for (std::int64_t l = 0; l < config.layers; ++l)
    layers.push_back(find_layer(config, arena, l, stream));
  if (!table->shape.frozen) return;
  const auto trained = std::ranges::find_if(layers, &LlamaLayer::is_trained);
  first_trained_layer = trained - layers.begin();
}

}  // namespace ballot
