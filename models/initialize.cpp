#include "models/initialize.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/hash.h"
#include "core/host_bytes.h"
#include "core/parallel.h"

namespace ballot {
namespace {

// Box and Muller 1958: one normal number from 2 x 32 bits.
float normal(std::uint64_t bits) {
  const double u = (static_cast<double>(bits >> 32) + 0.5) * 0x1p-32;  // in (0, 1)
  const double angle = 2 * std::numbers::pi * (static_cast<double>(bits & 0xffffffffu) * 0x1p-32);
  return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(angle));
}

}  // namespace

void initialize_transformer(const ParameterArena& arena, std::uint64_t seed, double range,
                            std::int64_t layers,
                            std::span<const std::string_view> residual_branches) {
  for (const Parameter& p : arena.parameters()) {
    const bool is_vector = p.shape.kind == ParameterKind::vector;
    const float constant = p.shape.name.ends_with(".bias") ? 0.0f : 1.0f;
    const bool is_residual = std::ranges::any_of(
        residual_branches, [&](std::string_view end) { return p.shape.name.ends_with(end); });
    const float deviation = static_cast<float>(
        is_residual ? range / std::sqrt(2.0 * static_cast<double>(layers)) : range);
    const HostBytes host(p.value, HostBytes::Holds::zeros);
    auto* value = reinterpret_cast<float*>(host.data());
    parallel_for(p.shape.rows, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        for (std::int64_t col = 0; col < p.shape.cols; ++col) {
          const auto element = static_cast<std::uint64_t>(row * p.shape.cols + col);
          value[row * p.row_stride + col] =
              is_vector
                  ? constant
                  : deviation * normal(hash64(seed, static_cast<std::uint64_t>(p.index), element));
        }
    });
    host.put_back();
    arena.refresh_compute(p);
  }
}

}  // namespace ballot
