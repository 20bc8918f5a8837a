// The schedule's factor.

#include "optim/schedule.h"

#include <algorithm>
#include <numbers>

#include "core/error.h"

namespace ballot {
namespace {

// cos(pi x) for x in [0, 1], by Taylor series within pi/4 of a zero or an extremum. Every replica
// computes the factor, and libm's cosine may differ in its last bit from one processor to another;
// sums and products in this order do not (this file is compiled without contraction). Off by at
// most 2e-16.
double cosine_of_pi(double x) {
  if (x > 0.5) return -cosine_of_pi(1.0 - x);
  const bool near_zero = x > 0.25;  // of the cosine: take the sine of what is left
  const double z = std::numbers::pi * (near_zero ? 0.5 - x : x), square = z * z;
  double term = near_zero ? z : 1.0, sum = term;
  for (int i = near_zero ? 2 : 1; i <= 20; i += 2) {
    term *= -square / static_cast<double>(i * (i + 1));
    sum += term;
  }
  return sum;
}

}  // namespace

double RateSchedule::factor(std::int64_t step) const {
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
      return warmup * (final_factor + (1.0 - final_factor) / 2 * (1.0 + cosine_of_pi(at / length)));
  }
  return warmup;
}

}  // namespace ballot
