// What one worker shows to Prometheus: its endpoint, its target file, and the values, which are
// those of metrics.jsonl (runtime/metrics.h) as far as this worker knows them.
//
// All calls but the first two are a few atomic stores each: a step waits for nobody who looks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "runtime/metrics.h"
#include "runtime/watching/metric_values.h"
#include "runtime/watching/metrics_endpoint.h"
#include "runtime/watching/scrape_target.h"

namespace ballot {

class WorkerWatch {
 public:
  // What this worker knows of a run's record: an elastic one does not tell purposes of bytes,
  // hidden communication, audits and slow workers apart. none: its steps are all it knows.
  enum class Record { fixed, elastic, none };

  // Listens when this returns (ConfigError). `voters`: numbers of voters are below.
  WorkerWatch(const std::string& listen, Record record, std::size_t voters);

  // The run is this process's from here on. `name`: of the target file; `worker`: as people know
  // it.
  void announce(const std::string& run_folder, const std::string& name, const std::string& run,
                const std::string& worker);

  void begin(std::int64_t step, std::int64_t steps_planned, int workers, int voters);
  // A change of membership in an elastic run. Agreement is with these others.
  void enter(std::int64_t term, int workers, int voters);
  // `voters`: numbers of those of metrics.votes, in their order; empty: 0, 1, ...
  void step(const StepMetrics& metrics, std::span<const std::int32_t> voters = {});
  // Applied, without having taken part in its vote.
  void caught_up(std::int64_t step);
  void evaluated(double loss);
  void repaired() { values_->add(Metric::repairs, 1); }
  void alarmed() { values_->add(Metric::alarms, 1); }
  // By a worker that is told of checkpoints: from now on it is known that none has failed.
  void follows_checkpoints() { values_->add(Metric::checkpoint_failures, 0); }
  void checkpoint(std::int64_t step, double seconds, std::uint64_t bytes);
  void newest_checkpoint(std::int64_t step);  // that is all that is known of it
  void checkpoint_failed() { values_->add(Metric::checkpoint_failures, 1); }

  const std::string& address() const { return endpoint_.address(); }

 private:
  void fixed_only(const StepMetrics& metrics);

  const Record record_;
  std::shared_ptr<MetricValues> values_;
  MetricsEndpoint endpoint_;
  std::optional<ScrapeTarget> target_;  // goes before the endpoint
};

}  // namespace ballot
