#include "runtime/watching/coordinator_watch.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "core/version.h"
#include "runtime/coordinator/refusals.h"

namespace ballot {
namespace {

class Samples {
 public:
  void add(Metric metric, double value, const std::string& label = "") {
    samples_.push_back({metric, label, value});
  }
  void add(Metric metric, std::int64_t value, const std::string& label = "") {
    add(metric, static_cast<double>(value), label);
  }
  std::vector<MetricSample> take() {  // those of a metric in a row
    std::ranges::stable_sort(samples_, {}, &MetricSample::metric);
    return std::move(samples_);
  }

 private:
  std::vector<MetricSample> samples_;
};

void add_workers(const std::vector<WorkerStatus>& workers, Samples& samples) {
  std::map<std::string, std::int64_t> by_state{{"unheard", 0}};
  for (const WorkerState state : {WorkerState::joining, WorkerState::voting, WorkerState::sealed})
    by_state[to_string(state)] = 0;
  for (const WorkerStatus& worker : workers)
    ++by_state[worker.heard ? to_string(worker.state) : "unheard"];
  for (const auto& [state, count] : by_state)
    samples.add(Metric::coordinator_workers, count, state);
  samples.add(Metric::coordinator_silent,
              std::int64_t{std::ranges::count(workers, true, &WorkerStatus::silent)});
  for (const WorkerStatus& worker : workers) {
    if (!worker.heard) continue;
    const std::string number = std::to_string(worker.identity.worker);
    samples.add(Metric::coordinator_held, worker.held.step, number);
    samples.add(Metric::coordinator_durable, worker.durable.step, number);
    samples.add(Metric::coordinator_pulse_age, seconds(worker.since_pulse), number);
    if (worker.agreement >= 0) samples.add(Metric::coordinator_agreement, worker.agreement, number);
  }
}

class StatusSource : public MetricSource {
 public:
  StatusSource(CoordinatorWatch::AskStatus ask, Duration patience)
      : ask_(std::move(ask)), patience_(patience) {}

  std::vector<MetricSample> collect() const override {
    using Found = std::optional<std::vector<MetricSample>>;
    const auto answer = std::make_shared<std::promise<Found>>();
    std::future<Found> found = answer->get_future();
    ask_([answer](const ServiceStatus* status) {
      answer->set_value(status != nullptr ? Found(metrics_of(*status)) : std::nullopt);
    });
    if (found.wait_for(patience_) != std::future_status::ready) return metrics_without_status();
    return found.get().value_or(metrics_without_status());
  }

 private:
  CoordinatorWatch::AskStatus ask_;
  Duration patience_;
};

}  // namespace

std::vector<MetricSample> metrics_without_status() {
  Samples samples;
  samples.add(Metric::build_info, 1.0, version());
  samples.add(Metric::coordinator_answers, 0.0);
  return samples.take();
}

std::vector<MetricSample> metrics_of(const ServiceStatus& status) {
  const CoordinatorStatus& c = status.coordinator;
  Samples samples;
  samples.add(Metric::build_info, 1.0, status.version);
  samples.add(Metric::coordinator_answers, 1.0);
  samples.add(Metric::coordinator_leading, c.leading ? 1.0 : 0.0);
  samples.add(Metric::coordinator_up, status.seconds_up);
  for (std::size_t kind = 0; kind < kRefusals; ++kind) {
    const std::string reason = to_string(static_cast<Refusal>(kind));
    const auto counted = status.refusals.find(reason);
    samples.add(Metric::coordinator_refusals,
                counted == status.refusals.end() ? std::int64_t{0} : counted->second, reason);
  }
  if (!c.leading) return samples.take();
  add_workers(c.workers, samples);
  if (c.steps > 0) samples.add(Metric::coordinator_steps_planned, c.steps);
  if (!c.checkpoints.empty())
    samples.add(Metric::coordinator_checkpoint, c.checkpoints.back().position.step);
  if (c.term > 0) {
    samples.add(Metric::coordinator_term, c.term);
    samples.add(Metric::coordinator_commit, c.commit.step);
    samples.add(Metric::coordinator_head, c.head);
  }
  return samples.take();
}

CoordinatorWatch::CoordinatorWatch(const std::string& listen, AskStatus ask,
                                   const std::string& run_folder, const std::string& name,
                                   const std::string& run, Duration patience)
    : endpoint_(listen, "--prometheus", std::make_shared<StatusSource>(std::move(ask), patience)),
      target_(run_folder, name, endpoint_.reachable_address(),
              {{"run", run}, {"role", "coordinator"}}) {}

}  // namespace ballot
