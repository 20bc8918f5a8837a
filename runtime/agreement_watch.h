// Which voter's ballots no longer look like everybody's: a broken device, a wrong shard of data, an
// inverted sign.
//
// Watches each voter's agreement, the share of compared elements where its sign is that of the
// majority of the OTHER ballots (verdict.h: chance is one half whatever W is), over a window of
// steps. A voter is alarming when, over a whole window,
//   - it had the least agreement of all in so many steps that chance would have it, if all voters
//     were alike and steps independent, at most once in `windows_per_false_alarm` windows (a
//     binomial tail with p = 1/W, times W), and
//   - its mean agreement is at most half as far above chance as the others' median, and theirs is
//     above chance at all: a healthy voter with other data is often the last, but not by so much.
// With two voters both figures are the same number, so nobody can be told apart: no alarm. Voters
// that abstained wholly are left out of a step. Deterministic: with the same statistics every
// worker comes to the same result. One thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "collectives/verdict.h"

namespace ballot {

struct AgreementOptions {
  std::int64_t window = 50;              // steps
  double windows_per_false_alarm = 1e9;  // under equal voters
};

struct AgreementAlarm {
  int voter = 0;
  double agreement = 0;         // its mean over the window
  double others = 0;            // the median of the others' means
  std::int64_t times_last = 0;  // steps of the window in which it was the last
  std::string describe(std::int64_t window) const;
};

class AgreementWatch {
 public:
  explicit AgreementWatch(AgreementOptions options = {});

  // After each step's verdict. An alarm is given once, when it begins; a voter may alarm anew after
  // a window in which it did not.
  std::optional<AgreementAlarm> add(const VoteStatistics& statistics);
  // Mean agreement over the window so far, by voter; NaN where nothing was compared.
  std::vector<double> means() const;
  const std::vector<bool>& alarming() const { return alarming_; }
  // Steps of a window that a voter must be the last in; window + 1: cannot be reached.
  std::int64_t threshold(int voters) const;

 private:
  struct Step {
    std::vector<double> shares;  // NaN: not compared
    int last = -1;               // the voter with the least; -1: nobody, or two alike
  };
  AgreementOptions options_;
  std::deque<Step> steps_;
  std::vector<bool> alarming_;
  std::int64_t threshold_ = 0;
};

}  // namespace ballot
