// Time as an interface, so that tests move it: steady time for durations and deadlines.
#pragma once

#include <chrono>

namespace ballot {

using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::nanoseconds;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
};

// The machine's steady clock. Stateless; safe from any thread.
const Clock& system_clock();

// When a wait must end. A wait that passes its deadline throws Timeout and names whom it waited
// for.
struct Deadline {
  TimePoint at = TimePoint::max();
  static Deadline in(Duration duration, const Clock& clock = system_clock()) {
    return {clock.now() + duration};
  }
  bool passed(const Clock& clock = system_clock()) const { return clock.now() >= at; }
};

inline double seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// Seconds since construction or the last lap(), for the time of a stage.
class Stopwatch {
 public:
  explicit Stopwatch(const Clock& clock = system_clock()) : clock_(&clock), start_(clock.now()) {}
  double elapsed() const { return seconds(clock_->now() - start_); }
  double lap() {
    const TimePoint now = clock_->now();
    const double passed = seconds(now - start_);
    start_ = now;
    return passed;
  }

 private:
  const Clock* clock_;
  TimePoint start_;
};

}  // namespace ballot
