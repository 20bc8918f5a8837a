// A fresh Llama's parameters.
#include <array>

#include "models/initialize.h"
#include "models/llama/llama_model.h"

namespace ballot {

void initialize_llama(const LlamaConfig& config, const ParameterArena& arena, std::uint64_t seed) {
  constexpr std::array<std::string_view, 2> kResidualBranches = {".o_proj.weight",
                                                                 ".down_proj.weight"};
  initialize_transformer(arena, seed, config.initializer_range, config.layers, kResidualBranches);
}

}  // namespace ballot
