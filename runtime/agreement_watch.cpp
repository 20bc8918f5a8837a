#include "runtime/agreement_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace ballot {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kChance = 0.5;

double median(std::vector<double> values) {
  if (values.empty()) return kNaN;
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// P(X >= least) of X ~ Binomial(count, p).
double binomial_tail(std::int64_t count, double p, std::int64_t least) {
  double sum = 0;
  for (std::int64_t k = least; k <= count; ++k)
    sum += std::exp(
        std::lgamma(static_cast<double>(count + 1)) - std::lgamma(static_cast<double>(k + 1)) -
        std::lgamma(static_cast<double>(count - k + 1)) + static_cast<double>(k) * std::log(p) +
        static_cast<double>(count - k) * std::log1p(-p));
  return sum;
}

}  // namespace

std::string AgreementAlarm::describe(std::int64_t window) const {
  return fmt::format(
      "voter {} agreed with the majority of the others on {:.4f} of the compared elements over {} "
      "steps (their median is {:.4f}, chance 0.5) and was the last in {} of them: look at its "
      "device and its data",
      voter, agreement, window, others, times_last);
}

AgreementWatch::AgreementWatch(AgreementOptions options) : options_(options) {
  require(options.window >= 1 && options.windows_per_false_alarm >= 1,
          "a watch over {} steps, one false alarm in {} windows", options.window,
          options.windows_per_false_alarm);
}

std::int64_t AgreementWatch::threshold(int voters) const {
  if (voters < 3) return options_.window + 1;
  for (std::int64_t least = 1; least <= options_.window; ++least)
    if (voters * binomial_tail(options_.window, 1.0 / voters, least) *
            options_.windows_per_false_alarm <=
        1)
      return least;
  return options_.window + 1;
}

std::optional<AgreementAlarm> AgreementWatch::add(const VoteStatistics& statistics) {
  const std::size_t voters = statistics.agreed.size();
  if (alarming_.size() != voters) {
    steps_.clear();
    alarming_.assign(voters, false);
    threshold_ = threshold(static_cast<int>(voters));
  }
  Step step;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t v = 0; v < voters; ++v) {
    const double compared = static_cast<double>(statistics.compared[v]);
    const double share = compared > 0 ? static_cast<double>(statistics.agreed[v]) / compared : kNaN;
    step.shares.push_back(share);
    if (share < least) {
      least = share;
      step.last = static_cast<int>(v);
    } else if (share == least) {
      step.last = -1;
    }
  }
  steps_.push_back(std::move(step));
  if (static_cast<std::int64_t>(steps_.size()) > options_.window) steps_.pop_front();
  if (static_cast<std::int64_t>(steps_.size()) < options_.window || threshold_ > options_.window)
    return std::nullopt;

  std::optional<AgreementAlarm> begun;
  const std::vector<double> all = means();
  for (std::size_t v = 0; v < voters; ++v) {
    AgreementAlarm alarm;
    alarm.voter = static_cast<int>(v);
    alarm.agreement = all[v];
    std::vector<double> others;
    for (std::size_t o = 0; o < voters; ++o)
      if (o != v && !std::isnan(all[o])) others.push_back(all[o]);
    alarm.others = median(std::move(others));
    alarm.times_last = std::ranges::count(steps_, alarm.voter, &Step::last);
    const bool alarms = alarm.times_last >= threshold_ && alarm.others > kChance &&
                        alarm.agreement - kChance <= (alarm.others - kChance) / 2;
    if (alarms && !alarming_[v] && !begun) begun = alarm;
    alarming_[v] = alarms && (alarming_[v] || (begun && begun->voter == alarm.voter));
  }
  return begun;
}

std::vector<double> AgreementWatch::means() const {
  std::vector<double> sums(alarming_.size(), 0), counts(alarming_.size(), 0);
  for (const Step& step : steps_)
    for (std::size_t v = 0; v < step.shares.size(); ++v)
      if (!std::isnan(step.shares[v])) sums[v] += step.shares[v], counts[v] += 1;
  for (std::size_t v = 0; v < sums.size(); ++v)
    sums[v] = counts[v] > 0 ? sums[v] / counts[v] : kNaN;
  return sums;
}

}  // namespace ballot
