// GPT-2 as Hugging Face defines it, forward and backward written out: learned positions, LayerNorm
// before each half of a block, attention and MLP with biases, tanh GELU, tied or untied head
// (Radford et al. 2019). On the CPU. Without dropout.
//
// Products run in the arena's compute type (f32, or bf16 with fp32 accumulation); the residual
// stream, norms, softmax, losses and gradients are fp32. Where documents share a row, positions
// begin again with each. Activations are allocated for the largest (B, T) seen and reused.
#pragma once

#include <cstdint>
#include <memory>

#include "models/gpt2/gpt2_config.h"  // Gpt2Config
#include "models/model.h"             // Model

namespace ballot {

// `arena` must hold gpt2_parameter_shapes(config) and outlive the model. Unavailable for any device
// but the CPU.
std::unique_ptr<Model> make_gpt2(const Gpt2Config& config, const ParameterArena& arena,
                                 Device device = {});

// Normal(0, initializer_range) for matrices and tables (residual projections scaled by 1/sqrt(2L)),
// ones for gains, zeros for biases; a pure function of the seed and the element's place, whatever
// the thread count.
void initialize_gpt2(const Gpt2Config& config, const ParameterArena& arena, std::uint64_t seed);

}  // namespace ballot
