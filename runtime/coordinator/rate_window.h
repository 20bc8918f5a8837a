// Steps per second over the last minute, of something that reports its step now and then.
#pragma once

#include <cstdint>
#include <deque>

#include "core/clock.h"

namespace ballot {

class RateWindow {
 public:
  void add(TimePoint now, std::int64_t step) {
    if (!seen_.empty() && step < seen_.back().step) seen_.clear();  // it began anew
    if (!seen_.empty() && now - seen_.back().at < kApart) return;
    seen_.push_back({now, step});
    while (seen_.front().at + kWindow < now) seen_.pop_front();
  }
  // 0 where there is nothing to compare, or nothing has been heard for a window.
  double steps_per_second(TimePoint now) const {
    if (seen_.size() < 2 || now - seen_.back().at > kWindow) return 0;
    return static_cast<double>(seen_.back().step - seen_.front().step) /
           seconds(seen_.back().at - seen_.front().at);
  }

 private:
  static constexpr Duration kWindow = std::chrono::seconds(60);
  static constexpr Duration kApart = std::chrono::milliseconds(500);
  struct Seen {
    TimePoint at;
    std::int64_t step;
  };
  std::deque<Seen> seen_;
};

}  // namespace ballot
