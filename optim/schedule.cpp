// The schedule's factor.

#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace ballot {

double Schedule::factor(std::int64_t step) const {
  require(step >= 0, "schedule at step {}, expected 0 or more", step);
  require(steps >= 1, "schedule over {} steps, expected at least 1", steps);
  const double warmup = step + 1 < warmup_steps
                            ? static_cast<double>(step + 1) / static_cast<double>(warmup_steps)
                            : 1.0;
  // A run that goes on past its end keeps the final factor.
  const double at = static_cast<double>(std::min(step, steps));
  const double length = static_cast<double>(steps);
  switch (shape) {
    case Shape::constant:
      return warmup;
    case Shape::linear:
      return warmup * (1.0 - (1.0 - final_factor) * (at / length));
    case Shape::cosine:
      return warmup * (final_factor +
                       (1.0 - final_factor) / 2 * (1.0 + std::cos(std::numbers::pi * at / length)));
  }
  return warmup;
}

}  // namespace ballot
