#include "runtime/report_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace ballot {
namespace {

// Of the last `window` steps, at each step that has so many before it; a step without a loss is
// left out.
std::vector<double> smoothed(const RunRecord& run, std::size_t window) {
  std::vector<double> result(run.steps.size(), kNoValue);
  for (std::size_t end = window; end <= run.steps.size(); ++end) {
    double sum = 0;
    std::size_t count = 0;
    for (std::size_t i = end - window; i < end; ++i)
      if (std::isfinite(run.steps[i].loss)) {
        sum += run.steps[i].loss;
        ++count;
      }
    if (count > 0) result[end - 1] = sum / static_cast<double>(count);
  }
  return result;
}

// Up, to so few digits as tell losses apart that differ by `scale`.
double rounded_up(double value, double scale) {
  const double unit = std::pow(10, std::floor(std::log10(scale)) - 2);
  return std::ceil(value / unit - 1e-9) * unit;
}

}  // namespace

double mean_of(const RunRecord& run, const StepValue& value) {
  double sum = 0;
  std::size_t count = 0;
  for (const StepRecord& step : run.steps)
    if (const double x = value(step); std::isfinite(x)) {
      sum += x;
      ++count;
    }
  return count ? sum / static_cast<double>(count) : kNoValue;
}

double sum_of(const RunRecord& run, const StepValue& value) {
  double sum = 0;
  for (const StepRecord& step : run.steps)
    if (const double x = value(step); std::isfinite(x)) sum += x;
  return sum;
}

double median_of(const RunRecord& run, const StepValue& value) {
  std::vector<double> values;
  for (const StepRecord& step : run.steps)
    if (const double x = value(step); std::isfinite(x)) values.push_back(x);
  if (values.empty()) return kNoValue;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double last_elapsed(const RunRecord& run) {
  return run.steps.empty() ? kNoValue : run.steps.back().elapsed;
}

double tokens_per_second(const RunRecord& run) {
  const double time = last_elapsed(run);
  return time > 0 ? run.steps.back().tokens / time : kNoValue;
}

const char* clock_of(const RunRecord& run) {
  if (run.steps.empty()) return "–";
  return run.steps_with_time >= run.steps.size() ? "wall clock"
         : run.steps_with_time == 0              ? "sum of the steps' times"
                                                 : "wall clock, of older steps their times";
}

bool averages_gradients(const RunRecord& run) {
  return run.reduce.starts_with("mean");
}

std::string against_fp32(const RunRecord& run) {
  const double sent = mean_of(run, [](const StepRecord&s) { return s.bytes; }),
               fp32 = mean_of(run, [](const StepRecord&s) { return s.fp32_bytes; });
  if (!(sent > 0) || !std::isfinite(fp32)) return "";
  const double times = fp32 / sent;
  return times >= 1.05   ? fmt::format("{:.1f} times less", times)
         : times > 0.952 ? "the same"
                         : fmt::format("{:.1f} times more", 1 / times);
}

std::size_t reference_run(const std::vector<RunRecord>& runs) {
  const auto found = std::ranges::find_if(runs, averages_gradients);
  return found == runs.end() ? 0 : static_cast<std::size_t>(found - runs.begin());
}

std::size_t smoothing_window(const std::vector<RunRecord>& runs) {
  std::size_t shortest = 100;
  for (const RunRecord& run : runs) shortest = std::min(shortest, run.steps.size());
  return std::max<std::size_t>(1, shortest / 10);
}

std::vector<double> common_losses(const std::vector<RunRecord>& runs, std::size_t window) {
  double high = INFINITY, low = -INFINITY;
  for (const RunRecord& run : runs) {
    double first = kNoValue, least = kNoValue;
    for (const double loss : smoothed(run, window)) {
      if (!std::isfinite(loss)) continue;
      if (std::isnan(first)) first = loss;
      if (std::isnan(least) || loss < least) least = loss;
    }
    if (std::isnan(first)) return {};
    high = std::min(high, first);
    low = std::max(low, least);
  }
  if (!(low < high)) return {};
  // Three on the way and the lowest.
  constexpr int kParts = 4;
  std::vector<double> losses;
  for (int part = 1; part <= kParts; ++part) {
    const double loss = rounded_up(high + (low - high) * part / kParts, high - low);
    if (loss < high && (losses.empty() || loss < losses.back())) losses.push_back(loss);
  }
  return losses;
}

Reached reach(const RunRecord& run, double loss, std::size_t window) {
  const std::vector<double> losses = smoothed(run, window);
  for (std::size_t i = 0; i < losses.size(); ++i)
    if (losses[i] <= loss) return {run.steps[i].elapsed, run.steps[i].tokens, run.steps[i].step};
  return {};
}

}  // namespace ballot
