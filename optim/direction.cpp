// Scanning a gradient; momentum and interpolation in one pass; then Newton-Schulz where the rule
// has it.

#include "optim/direction.h"

#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "optim/cuda_optim.h"
#include "optim/square_sum.h"

namespace ballot {
namespace {

MomentumWeights weights_of(const ParameterGroup& group) {
  const auto narrow = [](double x) { return static_cast<float>(x); };
  const double b = group.momentum, b1 = group.beta1, b2 = group.beta2;
  switch (group.rule) {
    case Rule::olion:
      return {narrow(b2), narrow(1 - b2), narrow(1 - b1), narrow(b1), false};
    case Rule::lion:
      return {narrow(b2), narrow(1 - b2), narrow(1 - b1), narrow(b1), true};
    case Rule::signum:
      return {narrow(b), narrow(1 - b), 0, 1, false};
    case Rule::muon:
      return {narrow(b), narrow(1 - b), narrow(1 - b), narrow(b), false};
    case Rule::sgd:
      return {narrow(b), 1, 0, 1, false};
    case Rule::adamw:
      break;
  }
  require(false, "group {}: {} has no direction", group.name, to_string(group.rule));
  return {};
}

template <class T>
[[gnu::always_inline]] inline void absorb_elements(const float* __restrict g, T* __restrict m,
                                                   float* __restrict u, std::int64_t count,
                                                   MomentumWeights w) {
  if (w.old_momentum) {
    for (std::int64_t i = 0; i < count; ++i) {
      const float old = to_float(m[i]);
      u[i] = w.from_momentum * old + w.from_gradient * g[i];
      m[i] = from_float<T>(w.keep * old + w.absorb * g[i]);
    }
  } else {
    // With bf16 momentum u reads the new M before it is rounded for storage.
    for (std::int64_t i = 0; i < count; ++i) {
      const float now = w.keep * to_float(m[i]) + w.absorb * g[i];
      m[i] = from_float<T>(now);
      u[i] = w.from_gradient * g[i] + w.from_momentum * now;
    }
  }
}

BALLOT_VECTORIZED void absorb_f32(const float* __restrict g, float* __restrict m,
                                  float* __restrict u, std::int64_t count, MomentumWeights w) {
  absorb_elements(g, m, u, count, w);
}
BALLOT_VECTORIZED void absorb_bf16(const float* __restrict g, bfloat16* __restrict m,
                                   float* __restrict u, std::int64_t count, MomentumWeights w) {
  absorb_elements(g, m, u, count, w);
}

bool same_layout(const Tensor& a, const Tensor& b) {
  return a.rank == 2 && b.rank == 2 && a.extent == b.extent && a.stride == b.stride;
}

}  // namespace

GradientScan scan_gradient(const Tensor& gradient, std::span<std::uint8_t> silent_rows,
                           Stream& stream) {
  const double sum = square_sum(gradient, silent_rows, stream);
  return {.finite = std::isfinite(sum), .square_sum = sum};
}

namespace {

bool orthogonalizes(const ParameterGroup& group) {
  return group.rule == Rule::muon || (group.rule == Rule::olion && group.newton_schulz);
}

void require_alike(const ParameterGroup& group, const Tensor& gradient, const Tensor& momentum,
                   const Tensor& direction, const NewtonSchulz* newton_schulz) {
  require(same_layout(gradient, momentum) && same_layout(gradient, direction) &&
              (gradient.stride[1] == 1 || gradient.extent[1] == 1),
          "group {}: gradient {}, momentum {} and direction {} must lie alike", group.name,
          gradient.describe(), momentum.describe(), direction.describe());
  require(momentum.device == gradient.device && direction.device == gradient.device,
          "group {}: gradient on {}, momentum on {}, direction on {}", group.name,
          to_string(gradient.device), to_string(momentum.device), to_string(direction.device));
  require(!orthogonalizes(group) || newton_schulz != nullptr, "group {}: {} without a NewtonSchulz",
          group.name, to_string(group.rule));
}

// Momentum and interpolation.
void absorb(const ParameterGroup& group, const Tensor& gradient, const Tensor& momentum,
            const Tensor& direction, Stream& stream, const double* gate) {
  const MomentumWeights weights = weights_of(group);
  // Padding is 0 in both inputs, so one flat pass leaves it 0 and needs no rows.
  const std::int64_t extent =
      gradient.count() == 0 ? 0
                            : (gradient.extent[0] - 1) * gradient.stride[0] + gradient.extent[1];
  const float* g = gradient.f32();
  float* u = direction.f32();
  if (gradient.device.kind == Device::Kind::cuda) {
    cuda_optim().absorb(weights, extent, g, momentum, u, gate, stream);
  } else if (momentum.type == DType::f32) {
    float* m = momentum.f32();
    parallel_for(extent, 4096, [&](std::int64_t begin, std::int64_t end) {
      absorb_f32(g + begin, m + begin, u + begin, end - begin, weights);
    });
  } else {
    bfloat16* m = momentum.bf16();
    parallel_for(extent, 4096, [&](std::int64_t begin, std::int64_t end) {
      absorb_bf16(g + begin, m + begin, u + begin, end - begin, weights);
    });
  }
}

}  // namespace

// Scratch of the device: the sum of the direction's squares, the sums of its rows.
void find_direction(const ParameterGroup& group, const Tensor& gradient, const Tensor& momentum,
                    const Tensor& direction, NewtonSchulz* newton_schulz, Stream& stream,
                    const double* gate) {
  require_alike(group, gradient, momentum, direction, newton_schulz);
  if (!orthogonalizes(group)) return absorb(group, gradient, momentum, direction, stream, gate);
  const double* square_sum = nullptr;
  if (gradient.device.kind == Device::Kind::cuda && gradient.count() > 0) {
    const auto rows = static_cast<std::size_t>(gradient.extent[0]);
    auto* const sums = reinterpret_cast<double*>(stream.scratch((1 + rows) * sizeof(double)));
    cuda_optim().absorb_and_sum(weights_of(group), gradient, momentum, direction, gate, sums,
                                sums + 1, stream);
    square_sum = sums;
  } else {
    absorb(group, gradient, momentum, direction, stream, gate);
  }
  newton_schulz->orthogonalize(direction, group.newton_schulz_steps, stream,
                               group.newton_schulz_coefficients, square_sum);
}

void find_direction_of_part(const ParameterGroup& group, const Tensor& gradient,
                            const Tensor& momentum, const Tensor& direction, bool wide,
                            NewtonSchulz* newton_schulz, GramSum& parts, Stream& stream) {
  require_alike(group, gradient, momentum, direction, newton_schulz);
  absorb(group, gradient, momentum, direction, stream, nullptr);
  if (orthogonalizes(group))
    newton_schulz->orthogonalize_part(direction, wide, group.newton_schulz_steps, parts, stream,
                                      group.newton_schulz_coefficients);
}

}  // namespace ballot
