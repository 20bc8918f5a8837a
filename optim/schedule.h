// The factor on every group's rate, a pure function of the step (from 0).
//
// warm-up: (step + 1) / warmup_steps up to 1, multiplied by the shape over all `steps`: constant 1;
// linear 1 -> final_factor; cosine final + (1 - final)(1 + cos(pi step / steps)) / 2.
#pragma once

#include <cstdint>

namespace ballot {

struct RateSchedule {
  enum class Shape { constant, linear, cosine };
  Shape shape = Shape::cosine;
  std::int64_t steps = 1;
  std::int64_t warmup_steps = 0;
  double final_factor = 0.1;
  double factor(std::int64_t step) const;
};

}  // namespace ballot
