// Llama as Hugging Face defines it, forward and backward written out: RMSNorm, rotate-half RoPE,
// grouped-query attention, SwiGLU, tied or untied head (Touvron et al. 2023, arXiv:2307.09288;
// Ainslie et al. 2023, arXiv:2305.13245).
//
// Products run in the arena's compute type (f32, or bf16 with fp32 accumulation); the residual
// stream, norms, softmax, losses and gradients are fp32. Activations are allocated for the largest
// (B, T) seen and reused.
#pragma once

#include <cstdint>
#include <memory>

#include "models/llama/llama_config.h"  // LlamaConfig
#include "models/model.h"               // Model

namespace ballot {

// `arena` must hold llama_parameter_shapes(config), lie on `device` and outlive the model.
std::unique_ptr<Model> make_llama(const LlamaConfig& config, const ParameterArena& arena,
                                  Device device = {});

// Normal(0, initializer_range) for matrices (residual projections scaled by 1/sqrt(2L)), ones for
// gains, zeros for biases; a pure function of the seed and the element's place, whatever the thread
// count.
void initialize_llama(const LlamaConfig& config, const ParameterArena& arena, std::uint64_t seed);

}  // namespace ballot
