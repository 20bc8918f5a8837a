#include "models/gpt2/gpt2_weights.h"

#include <fmt/format.h>

#include <string>
#include <utility>

namespace ballot {
namespace {

Gpt2Norm find_norm(const ParameterArena& arena, const std::string& name) {
  return {&arena.find(name + ".weight"), &arena.find(name + ".bias")};
}

Gpt2Layer find_layer(const ParameterArena& arena, std::int64_t l, std::int64_t width,
                     Stream& stream) {
  const std::string prefix = fmt::format("transformer.h.{}.", l);
  const auto affine = [&](const char* name, std::vector<Affine::Columns> columns = {}) {
    return Affine(arena.find(prefix + name + ".weight"), arena.find(prefix + name + ".bias"),
                  stream, std::move(columns));
  };
  // Stored [q | k | v]; attention reads [v | k | q].
  return {
      find_norm(arena, prefix + "ln_1"),
      find_norm(arena, prefix + "ln_2"),
      affine("attn.c_attn", {{2 * width, 0, width}, {width, width, width}, {0, 2 * width, width}}),
      affine("attn.c_proj"),
      affine("mlp.c_fc"),
      affine("mlp.c_proj")};
}

}  // namespace

Gpt2Weights::Gpt2Weights(const Gpt2Config& config, const ParameterArena& arena, Stream& stream)
    : tokens(&arena.find("transformer.wte.weight")),
      positions(&arena.find("transformer.wpe.weight")),
      head(config.tied_head ? tokens : &arena.find("lm_head.weight")),
      final_norm(find_norm(arena, "transformer.ln_f")) {
  for (std::int64_t l = 0; l < config.layers; ++l)
    layers.push_back(find_layer(arena, l, config.hidden_size, stream));
}

RopeTable no_rotation(std::int64_t head_size) {
  return RopeTable(std::vector<double>(static_cast<std::size_t>(head_size / 2), 0.0));
}

}  // namespace ballot
