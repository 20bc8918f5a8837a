#include "runtime/watching/metric_values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "core/version.h"

namespace ballot {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

std::string label_of(const MetricEntry& entry, std::size_t place) {
  if (entry.label == nullptr) return "";
  const std::string_view label = entry.label;
  if (label == "stage") return kStageLabels[place];
  if (label == "purpose") return kWireLabels[place];
  if (label == "version") return version();
  return std::to_string(place);
}

std::size_t places_of(const MetricEntry& entry, std::size_t voters) {
  if (entry.kind == MetricKind::histogram || entry.scope == MetricScope::coordinator) return 0;
  if (entry.label == nullptr) return 1;
  const std::string_view label = entry.label;
  if (label == "stage") return kStageLabels.size();
  if (label == "purpose") return kWireLabels.size();
  if (label == "voter") return voters;
  return 1;
}

}  // namespace

MetricValues::MetricValues(std::size_t voters) {
  for (const MetricEntry& entry : metric_table()) {
    Slots& slots = slots_[static_cast<std::size_t>(entry.metric)];
    slots.count = places_of(entry, voters);
    slots.values = std::make_unique<std::atomic<double>[]>(slots.count);
    for (std::size_t i = 0; i < slots.count; ++i) slots.values[i] = kUnknown;
  }
  set(Metric::build_info, 1);
}

void MetricValues::set(Metric metric, std::size_t label, double value) {
  Slots& slots = slots_[static_cast<std::size_t>(metric)];
  if (label >= slots.count) return;
  slots.values[label].store(std::isfinite(value) ? value : kUnknown, std::memory_order_relaxed);
}

void MetricValues::add(Metric metric, std::size_t label, double amount) {
  Slots& slots = slots_[static_cast<std::size_t>(metric)];
  if (label >= slots.count || !std::isfinite(amount)) return;
  std::atomic<double>& value = slots.values[label];
  double before = value.load(std::memory_order_relaxed);
  while (!value.compare_exchange_weak(before, (std::isnan(before) ? 0 : before) + amount,
                                      std::memory_order_relaxed)) {
  }
}

void MetricValues::forget(Metric metric) {
  Slots& slots = slots_[static_cast<std::size_t>(metric)];
  for (std::size_t i = 0; i < slots.count; ++i)
    slots.values[i].store(kUnknown, std::memory_order_relaxed);
}

void MetricValues::observe_step(double seconds) {
  if (!std::isfinite(seconds)) return;
  const auto bucket = std::ranges::lower_bound(kStepSecondsBounds, seconds);
  const auto place = static_cast<std::size_t>(bucket - kStepSecondsBounds.begin());
  step_counts_[place].fetch_add(1, std::memory_order_relaxed);
  step_sum_.fetch_add(seconds, std::memory_order_relaxed);
}

std::vector<MetricSample> MetricValues::collect() const {
  std::vector<MetricSample> samples;
  for (const MetricEntry& entry : metric_table()) {
    if (entry.metric == Metric::step_seconds) {
      MetricSample steps{entry.metric, "", step_sum_.load(std::memory_order_relaxed)};
      std::uint64_t all = 0;
      for (const auto& count : step_counts_) {
        steps.counts.push_back(count.load(std::memory_order_relaxed));
        all += steps.counts.back();
      }
      if (all > 0) samples.push_back(std::move(steps));
      continue;
    }
    const Slots& slots = slots_[static_cast<std::size_t>(entry.metric)];
    for (std::size_t i = 0; i < slots.count; ++i) {
      const double value = slots.values[i].load(std::memory_order_relaxed);
      if (!std::isnan(value)) samples.push_back({entry.metric, label_of(entry, i), value});
    }
  }
  return samples;
}

}  // namespace ballot
