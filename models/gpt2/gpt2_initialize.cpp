// A fresh GPT-2's parameters.
#include <array>

#include "models/gpt2/gpt2_model.h"
#include "models/initialize.h"

namespace ballot {

void initialize_gpt2(const Gpt2Config& config, const ParameterArena& arena, std::uint64_t seed) {
  constexpr std::array<std::string_view, 1> kResidualBranches = {".c_proj.weight"};
  initialize_transformer(arena, seed, config.initializer_range, config.layers, kResidualBranches);
}

}  // namespace ballot
