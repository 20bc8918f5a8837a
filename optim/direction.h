// Gradient -> momentum -> direction, for one matrix, in the rules' exact order.
//
//   olion   M <- b2 M + (1-b2) g;  u = (1-b1) g + b1 M (the new M);  X = NS5(u), or u itself
//   without Newton-Schulz lion    u = b1 M + (1-b1) g (the old M);  M <- b2 M + (1-b2) g (Chen et
//   al. 2023) signum  M <- b M + (1-b) g;  u = M (Bernstein et al. 2018) muon    M <- b M + (1-b)
//   g;  u = (1-b) g + b M;  X = NS5(u)                           (Jordan 2024) sgd     M <- b M +
//   g;  u = M                             (heavy ball; with b = 0, the default, u = g)
// adamw has no direction of its own: see replicated_update.h. All but Newton-Schulz has the same
// bits on every processor and team.
#pragma once

#include <span>

#include "core/parameter.h"
#include "optim/newton_schulz.h"
#include "optim/parameter_group.h"

namespace ballot {

// What a scan of one gradient says before anything absorbs it.
struct GradientScan {
  bool finite = true;
  double square_sum = 0;  // of the real elements, summed in a fixed order whatever the team
};
// `silent_rows`, if not empty, gets 1 for each row that is all zero, else 0. Waits for the stream.
GradientScan scan_gradient(const Tensor& gradient, std::span<std::uint8_t> silent_rows,
                           Stream& stream);

// `gradient`, `momentum` (f32 or bf16) and `direction` (f32) have the parameter's rows, cols and
// row stride; padding stays 0. `newton_schulz` may be null for rules that do not use it. `gate`, of
// a GPU: null, or where the sum of the gradient's squares will be; if it is not finite the momentum
// stands still and the direction means nothing.
void find_direction(const ParameterGroup& group, const Tensor& gradient, const Tensor& momentum,
                    const Tensor& direction, NewtonSchulz* newton_schulz, Stream& stream,
                    const double* gate = nullptr);

// The same for one part of a cut matrix, all of whose parts do this at once: of its columns
// (`wide`) or of its rows. To rounding what find_direction() of the whole matrix gives.
void find_direction_of_part(const ParameterGroup& group, const Tensor& gradient,
                            const Tensor& momentum, const Tensor& direction, bool wide,
                            NewtonSchulz* newton_schulz, GramSum& parts, Stream& stream);

}  // namespace ballot
