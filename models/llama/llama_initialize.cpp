// A fresh Llama's parameters: counter-based normal numbers, so that they depend on nothing but the
// seed and the place.
#include <cmath>
#include <numbers>

#include "core/hash.h"
#include "core/host_bytes.h"
#include "core/parallel.h"
#include "models/llama/llama_model.h"

namespace ballot {
namespace {

// Box and Muller 1958: one normal number from 2 x 32 bits.
float normal(std::uint64_t bits) {
  const double u = (static_cast<double>(bits >> 32) + 0.5) * 0x1p-32;  // in (0, 1)
  const double angle = 2 * std::numbers::pi * (static_cast<double>(bits & 0xffffffffu) * 0x1p-32);
  return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(angle));
}

bool ends_a_residual_branch(const std::string& name) {
  return name.ends_with(".o_proj.weight") || name.ends_with(".down_proj.weight");
}

}  // namespace

void initialize_llama(const LlamaConfig& config, const ParameterArena& arena, std::uint64_t seed) {
  for (const Parameter& p : arena.parameters()) {
    double deviation = config.initializer_range;
    if (ends_a_residual_branch(p.shape.name))
      deviation /= std::sqrt(2.0 * static_cast<double>(config.layers));
    const HostBytes host(p.value, HostBytes::Holds::zeros);
    auto* value = reinterpret_cast<float*>(host.data());
    parallel_for(p.shape.rows, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        for (std::int64_t col = 0; col < p.shape.cols; ++col) {
          const std::uint64_t element = static_cast<std::uint64_t>(row * p.shape.cols + col);
          value[row * p.row_stride + col] =
              p.shape.kind == ParameterKind::vector
                  ? 1.0f
                  : static_cast<float>(deviation) *
                        normal(hash64(seed, static_cast<std::uint64_t>(p.index), element));
        }
    });
    host.put_back();
    arena.refresh_compute(p);
  }
}

}  // namespace ballot
