// The present values of metrics: written by whoever knows them, read by the endpoint whenever it is
// asked.
//
// Writing is a few atomic stores: it never waits, for a reader, a lock or memory. Values of one
// step may be seen beside values of the one before. Any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/watching/metric_table.h"

namespace ballot {

struct MetricSample {
  Metric metric;
  std::string label;  // the label's value; empty where the metric has none
  double value = 0;   // of a histogram: the sum of what was observed
  // Of a histogram: what fell into each bucket, the last of which has no upper bound.
  std::vector<std::uint64_t> counts = {};
};

// What an endpoint asks at every scrape, on a thread of its own; bounded in time.
class MetricSource {
 public:
  virtual ~MetricSource() = default;
  virtual std::vector<MetricSample> collect() const = 0;
};

class MetricValues : public MetricSource {
 public:
  // Voters are numbered 0 to voters - 1; values of others are dropped.
  explicit MetricValues(std::size_t voters);

  // Values that are not finite are not known, and so not exported.
  void set(Metric metric, double value) { set(metric, 0, value); }
  void add(Metric metric, double amount) { add(metric, 0, amount); }  // 0: from now on it is known
  // `label`: a voter's number, StepStage or WirePurpose.
  void set(Metric metric, std::size_t label, double value);
  void add(Metric metric, std::size_t label, double amount);
  void forget(Metric metric);  // with all labels
  void observe_step(double seconds);

  std::vector<MetricSample> collect() const override;

 private:
  struct Slots {
    std::size_t count = 0;
    std::unique_ptr<std::atomic<double>[]> values;
  };
  std::array<Slots, kMetrics> slots_;
  std::array<std::atomic<std::uint64_t>, kStepSecondsBounds.size() + 1> step_counts_{};
  std::atomic<double> step_sum_{0};
};

}  // namespace ballot
