// The one table of what Ballot's Prometheus endpoints export. The endpoint, docs/watching.md and
// the check of the dashboard's queries are all made from it, so that they cannot drift apart.
//
// Names follow Prometheus' conventions: base units, counters end in _total. A value that nobody
// knows is not exported: there is no made-up zero.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

namespace ballot {

enum class Metric {
  build_info,
  // Of a worker, about the whole run: every worker that knows one exports the same.
  step,
  steps_planned,
  loss,
  held_out_loss,
  learning_rate,
  workers,
  voters,
  term,
  run_tokens,
  tokens,
  tie,
  unanimous,
  held_blocks,
  agreement,
  gradient_faults,
  loss_faults,
  repairs,
  alarms,
  slowest_worker,
  slowest_worker_seconds,
  stage_slowest_worker,
  stage_slowest_seconds,
  stage_median_seconds,
  // Of a worker, about itself.
  steps,
  step_seconds,
  stage_seconds,
  communication_hidden,
  tally,
  wire_sent,
  fp32_sent,
  journal_lag,
  journal_bytes,
  journal_seconds,
  journal_wait,
  checkpoint_step,
  checkpoint_seconds,
  checkpoint_bytes,
  checkpoint_failures,
  checkpoint_wait,
  // Of a coordinator.
  coordinator_leading,
  coordinator_answers,
  coordinator_up,
  coordinator_term,
  coordinator_commit,
  coordinator_head,
  coordinator_steps_planned,
  coordinator_workers,
  coordinator_silent,
  coordinator_held,
  coordinator_durable,
  coordinator_pulse_age,
  coordinator_agreement,
  coordinator_checkpoint,
  coordinator_refusals,
};
inline constexpr std::size_t kMetrics = static_cast<std::size_t>(Metric::coordinator_refusals) + 1;

enum class MetricKind { gauge, counter, histogram };
const char* to_string(MetricKind kind);

// Who exports it, and whether it is about the exporter: the values of all workers about the run are
// one value (take one of them), those about themselves are each their own (add them up).
enum class MetricScope { process, run, worker, coordinator };
const char* to_string(MetricScope scope);

struct MetricEntry {
  Metric metric;
  const char* name;
  MetricKind kind;
  MetricScope scope;
  const char* label;  // null: none
  const char* help;
};

std::span<const MetricEntry, kMetrics> metric_table();  // in the order of Metric
const MetricEntry& entry_of(Metric metric);

// Values of the label "stage": of a step, one after another; what is left of the step is neither.
enum class StepStage { data, forward, backward, direction, pack, exposed, apply, audit };
inline constexpr std::array<const char*, 8> kStageLabels = {
    "data", "forward", "backward", "direction", "pack", "communication", "apply", "audit"};
// Values of the label "purpose" of what is sent.
enum class WirePurpose { vote, mean, control, member };
inline constexpr std::array<const char*, 4> kWireLabels = {"vote", "mean", "control", "member"};

// Upper bounds of the buckets of the histogram of step times, in seconds.
inline constexpr std::array<double, 16> kStepSecondsBounds = {
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500};

}  // namespace ballot
