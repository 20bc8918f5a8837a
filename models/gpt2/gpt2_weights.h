// A GPT-2's parameters as its passes read them: found in the arena by name.
#pragma once

#include <vector>

#include "core/parameter_arena.h"     // ParameterArena
#include "models/gpt2/affine.h"       // Affine
#include "models/gpt2/gpt2_config.h"  // Gpt2Config
#include "models/ops/rope.h"          // RopeTable

namespace ballot {

struct Gpt2Norm {
  const Parameter* gain;
  const Parameter* bias;
};

struct Gpt2Layer {
  Gpt2Norm before_attention, before_mlp;
  Affine vkq, output, fc, mlp_output;
};

struct Gpt2Weights {
  // The arena must hold gpt2_parameter_shapes(config); it and the stream must outlive this.
  Gpt2Weights(const Gpt2Config& config, const ParameterArena& arena, Stream& stream);

  const Parameter *tokens, *positions, *head;
  Gpt2Norm final_norm;
  std::vector<Gpt2Layer> layers;
};

// Angles of rotation that are all zero: attention without rotary positions, to the bit.
RopeTable no_rotation(std::int64_t head_size);

}  // namespace ballot
