// A Llama's parameters as its passes read them: found in the arena by name, grouped into the linear
// layers they make up.
#pragma once

#include <vector>

#include "core/parameter_arena.h"       // ParameterArena
#include "models/llama/linear.h"        // Linear
#include "models/llama/llama_config.h"  // LlamaConfig

namespace ballot {

struct LlamaLayer {
  const Parameter *input_norm, *mlp_norm;
  Linear vkq, output, up_gate, mlp_down;
  // In the order in which the backward finishes them.
  std::vector<const Parameter*> of_down, of_up_gate, of_output, of_vkq;

  // Whether anything in it is trained.
  bool is_trained() const;
};

struct LlamaWeights {
  // The arena must hold llama_parameter_shapes(config); it and the stream must outlive this.
  LlamaWeights(const LlamaConfig& config, const ParameterArena& arena, Stream& stream);

  const Parameter *table, *head_parameter, *final_norm;
  Linear head;
  std::vector<LlamaLayer> layers;
  // The first layer that backward has to reach; layers.size() where none is trained below the head.
  std::int64_t first_trained_layer = 0;
};

}  // namespace ballot
