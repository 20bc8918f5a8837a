// The positions of one record chain that a worker still knows: from where it was loaded (a
// checkpoint, or the start of the run) to what it holds.
//
// 32 bytes a step. A position that is older than the base cannot be judged: contains() is false.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/protocol/position.h"

namespace ballot {

class History {
 public:
  // `term`: of the record that ends in `base`; 0 at the start of the run.
  explicit History(Position base = {}, std::int64_t term = 0) : entries_{{base.digest, term}} {
    base_step_ = base.step;
  }

  Position base() const { return *at(base_step_); }
  Position last() const {
    return {base_step_ + static_cast<std::int64_t>(entries_.size()) - 1, entries_.back().digest};
  }
  std::int64_t last_term() const { return entries_.back().term; }

  std::optional<Position> at(std::int64_t step) const {
    if (!covers(step)) return std::nullopt;
    return Position{step, entry(step).digest};
  }
  // The term in which the record that ends there was decided.
  std::optional<std::int64_t> term_at(std::int64_t step) const {
    if (!covers(step)) return std::nullopt;
    return entry(step).term;
  }
  // Nothing done yet is part of every history.
  bool contains(const Position& position) const {
    if (position == Position{}) return true;
    return covers(position.step) && entry(position.step).digest == position.digest;
  }

  // `position` must be the step after last().
  void append(const Position& position, std::int64_t term);
  void cut_after(std::int64_t step);      // step in [base, last]
  void forget_before(std::int64_t step);  // the base moves up to it

  // For a peer that asks where its history leaves this one: positions at or before `step`, newest
  // first, dense at first, then twice as far each time, the base last.
  std::vector<Position> landmarks(std::int64_t step) const;

 private:
  struct Entry {
    Digest digest;
    std::int64_t term;
  };
  bool covers(std::int64_t step) const {
    return step >= base_step_ && step - base_step_ < static_cast<std::int64_t>(entries_.size());
  }
  const Entry& entry(std::int64_t step) const {
    return entries_[static_cast<std::size_t>(step - base_step_)];
  }

  std::int64_t base_step_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace ballot
