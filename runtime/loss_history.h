// What the held-out losses of a run say so far: which was the lowest, and for how long none has
// been lower. A pure function of the losses, which all workers have alike.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace ballot {

struct LossHistory {
  std::string of;  // the windows that were evaluated: losses of others are not comparable
  double best = std::numeric_limits<double>::infinity();
  std::int64_t best_step = -1;  // -1: none was finite
  // The last loss that was lower by more than min_delta than the one that counted before it, and
  // the evaluations since.
  double counted = std::numeric_limits<double>::infinity();
  std::int64_t since = 0;

  // Whether it is the lowest so far. A loss that is no number is an evaluation without improvement.
  bool add(std::int64_t step, double loss, double min_delta) {
    if (loss < counted - min_delta) {
      counted = loss;
      since = 0;
    } else {
      ++since;
    }
    if (!(loss < best)) return false;
    best = loss;
    best_step = step;
    return true;
  }
  // `limit`: train.early_stop_evaluations.
  bool says_stop(std::int64_t limit) const { return limit > 0 && since >= limit; }
  auto operator<=>(const LossHistory&) const = default;
};

}  // namespace ballot
