#include "runtime/watching/metric_table.h"

#include <algorithm>

namespace ballot {
namespace {

using enum MetricKind;
using enum MetricScope;

constexpr std::array<MetricEntry, kMetrics> kTable = {{
    {Metric::build_info, "ballot_build_info", gauge, process, "version",
     "Always 1; the label says which version of Ballot this process is."},

    {Metric::step, "ballot_step", gauge, run, nullptr,
     "Steps done since the run's beginning, as far as this worker has applied them."},
    {Metric::steps_planned, "ballot_steps_planned", gauge, run, nullptr,
     "Steps after which the run ends (train.steps)."},
    {Metric::loss, "ballot_loss_nats", gauge, run, nullptr,
     "Training loss of the last step, nats per counted token, over all workers."},
    {Metric::held_out_loss, "ballot_held_out_loss_nats", gauge, run, nullptr,
     "Loss of the last evaluation on held-out data, nats per token."},
    {Metric::learning_rate, "ballot_learning_rate", gauge, run, nullptr,
     "Learning rate of the first parameter group in the last step."},
    {Metric::workers, "ballot_workers", gauge, run, nullptr,
     "Workers in the last step: of the job, or of the present term (members of voters counted)."},
    {Metric::voters, "ballot_voters", gauge, run, nullptr,
     "Voters: workers, or groups of vote.members of them."},
    {Metric::term, "ballot_term", gauge, run, nullptr,
     "Term of an elastic run that this worker is in; a job with fixed workers has none."},
    {Metric::run_tokens, "ballot_run_tokens", gauge, run, nullptr,
     "Tokens that all workers have trained on since the run's beginning."},
    {Metric::tokens, "ballot_tokens_total", counter, run, nullptr,
     "Tokens that all workers have trained on since this process began."},
    {Metric::tie, "ballot_tie_ratio", gauge, run, nullptr,
     "Share of the last step's voted elements that were tied."},
    {Metric::unanimous, "ballot_unanimous_ratio", gauge, run, nullptr,
     "Share of the last step's voted elements on which all ballots agreed."},
    {Metric::held_blocks, "ballot_held_block_ratio", gauge, run, nullptr,
     "Share of the last step's blocks for which no ballot spoke, so that they did not move."},
    {Metric::agreement, "ballot_agreement_ratio", gauge, run, "voter",
     "How often a voter's sign was that of the others' majority in the last step; 0.5 is chance."},
    {Metric::gradient_faults, "ballot_gradient_faults_total", counter, run, nullptr,
     "Tensors left out because their gradient was not finite, of all workers."},
    {Metric::loss_faults, "ballot_loss_faults_total", counter, run, nullptr,
     "Times that a worker was left out because its loss was not finite, of all workers."},
    {Metric::repairs, "ballot_replica_repairs_total", counter, run, nullptr,
     "Replicas that differed and were put right."},
    {Metric::alarms, "ballot_voter_alarms_total", counter, run, nullptr,
     "Alarms about voters whose ballots agree with nobody's."},
    {Metric::slowest_worker, "ballot_slowest_worker", gauge, run, nullptr,
     "Number of the worker that computed longest in the last step."},
    {Metric::slowest_worker_seconds, "ballot_slowest_worker_compute_seconds", gauge, run, nullptr,
     "How long that worker computed."},
    {Metric::stage_slowest_worker, "ballot_stage_slowest_worker", gauge, run, "stage",
     "Number of the worker that was slowest at this stage of the last step."},
    {Metric::stage_slowest_seconds, "ballot_stage_slowest_seconds", gauge, run, "stage",
     "How long that worker took for the stage."},
    {Metric::stage_median_seconds, "ballot_stage_median_seconds", gauge, run, "stage",
     "Median over the workers of what the stage took."},

    {Metric::steps, "ballot_steps_total", counter, worker, nullptr,
     "Steps that this process has applied since it began."},
    {Metric::step_seconds, "ballot_step_duration_seconds", histogram, worker, nullptr,
     "Duration of steps, from drawing the batch to the record's line."},
    {Metric::stage_seconds, "ballot_stage_seconds_total", counter, worker, "stage",
     "Time in each stage of a step; communication is what was waited for after backward."},
    {Metric::communication_hidden, "ballot_communication_hidden_seconds_total", counter, worker,
     nullptr, "Communication that went on beside other work."},
    {Metric::tally, "ballot_tally_seconds_total", counter, worker, nullptr,
     "Counting of ballots; a part of communication, hidden or not."},
    {Metric::wire_sent, "ballot_wire_sent_bytes_total", counter, worker, "purpose",
     "Bytes handed to the network for others. member: inside a voter, in none of the others. In an "
     "elastic run everything that peers were sent counts as vote."},
    {Metric::fp32_sent, "ballot_fp32_allreduce_bytes_total", counter, worker, nullptr,
     "Bytes that an fp32 ring all-reduce of all parameters would have sent in the same steps."},
    {Metric::journal_lag, "ballot_journal_lag_steps", gauge, worker, nullptr,
     "Steps in this worker's journal that are not durable yet."},
    {Metric::journal_bytes, "ballot_journal_written_bytes_total", counter, worker, nullptr,
     "Bytes written to this worker's journal."},
    {Metric::journal_seconds, "ballot_journal_seconds_total", counter, worker, nullptr,
     "Time that steps spent on the journal; a part of the stages."},
    {Metric::journal_wait, "ballot_journal_wait_seconds_total", counter, worker, nullptr,
     "Time that steps waited for room in the journal's queue; a part of the former."},
    {Metric::checkpoint_step, "ballot_checkpoint_step", gauge, worker, nullptr,
     "Step of the newest checkpoint that was published, as far as this worker knows."},
    {Metric::checkpoint_seconds, "ballot_checkpoint_duration_seconds", gauge, worker, nullptr,
     "From the beginning of that checkpoint until it was published."},
    {Metric::checkpoint_bytes, "ballot_checkpoint_size_bytes", gauge, worker, nullptr,
     "Bytes of that checkpoint's shares."},
    {Metric::checkpoint_failures, "ballot_checkpoint_failures_total", counter, worker, nullptr,
     "Checkpoints that could not be written."},
    {Metric::checkpoint_wait, "ballot_checkpoint_wait_seconds_total", counter, worker, nullptr,
     "Time that steps waited for a checkpoint under way."},

    {Metric::coordinator_leading, "ballot_coordinator_leading", gauge, coordinator, nullptr,
     "1 while this coordinator leads, 0 while another does."},
    {Metric::coordinator_answers, "ballot_coordinator_answering", gauge, coordinator, nullptr,
     "1 where the coordinator's own thread answered this scrape in time; 0: all else is missing."},
    {Metric::coordinator_up, "ballot_coordinator_uptime_seconds", gauge, coordinator, nullptr,
     "Time since this coordinator began."},
    {Metric::coordinator_term, "ballot_coordinator_term", gauge, coordinator, nullptr,
     "The run's term; it rises by one at every change of membership. None before the first."},
    {Metric::coordinator_commit, "ballot_coordinator_commit_step", gauge, coordinator, nullptr,
     "The step that is committed: it will not be undone."},
    {Metric::coordinator_head, "ballot_coordinator_head_step", gauge, coordinator, nullptr,
     "The furthest step that a worker holds."},
    {Metric::coordinator_steps_planned, "ballot_coordinator_steps_planned", gauge, coordinator,
     nullptr, "Steps after which the run ends, as its workers say."},
    {Metric::coordinator_workers, "ballot_coordinator_workers", gauge, coordinator, "state",
     "Workers that the coordinator knows, by what they do; unheard: of the term, and not heard of "
     "since this coordinator began."},
    {Metric::coordinator_silent, "ballot_coordinator_silent_workers", gauge, coordinator, nullptr,
     "Workers that have not been heard of in time."},
    {Metric::coordinator_held, "ballot_coordinator_worker_held_step", gauge, coordinator, "worker",
     "The last step whose record a worker holds."},
    {Metric::coordinator_durable, "ballot_coordinator_worker_durable_step", gauge, coordinator,
     "worker", "The last step that is durable in a worker's journal."},
    {Metric::coordinator_pulse_age, "ballot_coordinator_worker_pulse_age_seconds", gauge,
     coordinator, "worker", "Time since a worker's last pulse."},
    {Metric::coordinator_agreement, "ballot_coordinator_worker_agreement_ratio", gauge, coordinator,
     "worker",
     "How often a worker's ballots had the sign of the others' majority over the last steps; 0.5 "
     "is chance."},
    {Metric::coordinator_checkpoint, "ballot_coordinator_checkpoint_step", gauge, coordinator,
     nullptr, "Step of the newest checkpoint that is published."},
    {Metric::coordinator_refusals, "ballot_coordinator_refusals_total", counter, coordinator,
     "reason", "Calls and messages turned away since this coordinator began."},
}};

constexpr bool in_order() {
  for (std::size_t i = 0; i < kMetrics; ++i)
    if (static_cast<std::size_t>(kTable[i].metric) != i) return false;
  return true;
}
static_assert(in_order());

}  // namespace

const char* to_string(MetricKind kind) {
  return kind == counter ? "counter" : kind == histogram ? "histogram" : "gauge";
}

const char* to_string(MetricScope scope) {
  switch (scope) {
    case process:
      return "process";
    case run:
      return "run";
    case worker:
      return "worker";
    case coordinator:
      break;
  }
  return "coordinator";
}

std::span<const MetricEntry, kMetrics> metric_table() {
  return kTable;
}

const MetricEntry& entry_of(Metric metric) {
  return kTable[static_cast<std::size_t>(metric)];
}

}  // namespace ballot
