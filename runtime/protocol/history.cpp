// Positions in a row.
#include "runtime/protocol/history.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {

void History::append(const Position& position, std::int64_t term) {
  require(position.step == last().step + 1, "step {} after step {}", position.step, last().step);
  entries_.push_back({position.digest, term});
}

void History::cut_after(std::int64_t step) {
  require(covers(step), "a cut after step {} of a history from {} to {}", step, base_step_,
          last().step);
  entries_.resize(static_cast<std::size_t>(step - base_step_) + 1);
}

void History::forget_before(std::int64_t step) {
  if (step <= base_step_) return;
  require(covers(step), "step {} is not in the history from {} to {}", step, base_step_,
          last().step);
  entries_.erase(entries_.begin(), entries_.begin() + (step - base_step_));
  base_step_ = step;
}

std::vector<Position> History::landmarks(std::int64_t step) const {
  constexpr std::int64_t kDense = 8;
  std::vector<Position> marks;
  std::int64_t back = 0;
  for (std::int64_t s = std::min(step, last().step); s > base_step_;) {
    marks.push_back(*at(s));
    back = back < kDense ? back + 1 : back * 2;
    s = std::min(step, last().step) - back;
  }
  if (base_step_ <= step) marks.push_back(base());
  return marks;
}

}  // namespace ballot
