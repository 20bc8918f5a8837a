// Counts what was turned away, by why, and says so in the log: often enough to be seen, not so
// often that whoever is turned away fills the disk. Secrets are no part of it. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "core/clock.h"

namespace ballot {

enum class Refusal {
  token,      // none, or another than expected
  tls,        // a handshake that failed
  malformed,  // no message, or values outside their limits
  too_large,
  join,      // another run, configuration or number
  fenced,    // an incarnation that is out
  ahead,     // of a later term than the row's
  too_many,  // calls at once
};
inline constexpr std::size_t kRefusals = 8;
const char* to_string(Refusal refusal);

class Refusals {
 public:
  explicit Refusals(const Clock& clock) : clock_(clock) {}
  // `who` and `why` are shown; they may be anything.
  void add(Refusal refusal, const std::string& who, const std::string& why);
  std::map<std::string, std::int64_t> counts() const;  // those that are not 0

 private:
  static constexpr int kLines = 20;  // in a period, of each kind
  static constexpr Duration kPeriod = std::chrono::seconds(60);
  struct Kind {
    std::int64_t count = 0;
    TimePoint period{};
    int lines = 0;
  };
  const Clock& clock_;
  mutable std::mutex mutex_;
  std::array<Kind, kRefusals> kinds_;
};

}  // namespace ballot
