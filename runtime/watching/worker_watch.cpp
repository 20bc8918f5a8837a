#include "runtime/watching/worker_watch.h"

#include <algorithm>
#include <iterator>

namespace ballot {
namespace {

constexpr const char* kAskedBy = "output.prometheus";

std::size_t at(StepStage stage) {
  return static_cast<std::size_t>(stage);
}
std::size_t at(WirePurpose purpose) {
  return static_cast<std::size_t>(purpose);
}

// What metrics.jsonl calls a stage (kOwnStages of runtime/replica_audit.h).
std::optional<StepStage> stage_named(const std::string& name) {
  constexpr std::pair<const char*, StepStage> kNames[] = {
      {"data", StepStage::data},    {"fwd", StepStage::forward},
      {"bwd", StepStage::backward}, {"direction", StepStage::direction},
      {"pack", StepStage::pack},    {"apply", StepStage::apply},
  };
  for (const auto& [known, stage] : kNames)
    if (name == known) return stage;
  return std::nullopt;
}

}  // namespace

WorkerWatch::WorkerWatch(const std::string& listen, Record record, std::size_t voters)
    : record_(record),
      values_(std::make_shared<MetricValues>(voters)),
      endpoint_(listen, kAskedBy, values_) {}

void WorkerWatch::announce(const std::string& run_folder, const std::string& name,
                           const std::string& run, const std::string& worker) {
  target_.emplace(
      run_folder, name, endpoint_.reachable_address(),
      std::map<std::string, std::string>{{"run", run}, {"worker", worker}, {"role", "worker"}});
}

void WorkerWatch::begin(std::int64_t step, std::int64_t steps_planned, int workers, int voters) {
  values_->set(Metric::step, static_cast<double>(step));
  values_->set(Metric::steps_planned, static_cast<double>(steps_planned));
  if (workers > 0) values_->set(Metric::workers, workers);
  if (voters > 0) values_->set(Metric::voters, voters);
  // These count what this process sees: so far, nothing.
  values_->add(Metric::steps, 0);
  if (record_ == Record::none) return;
  for (const Metric counter : {Metric::tokens, Metric::loss_faults, Metric::alarms})
    values_->add(counter, 0);
  if (record_ == Record::elastic) return;
  values_->add(Metric::gradient_faults, 0);
  values_->add(Metric::repairs, 0);
}

void WorkerWatch::enter(std::int64_t term, int workers, int voters) {
  values_->set(Metric::term, static_cast<double>(term));
  values_->set(Metric::workers, workers);
  values_->set(Metric::voters, voters);
  values_->forget(Metric::agreement);
}

void WorkerWatch::caught_up(std::int64_t step) {
  values_->set(Metric::step, static_cast<double>(step));
  values_->add(Metric::steps, 1);
}

void WorkerWatch::step(const StepMetrics& m, std::span<const std::int32_t> voters) {
  MetricValues& v = *values_;
  v.set(Metric::loss, m.loss);
  v.set(Metric::learning_rate, m.rate);
  v.set(Metric::run_tokens, static_cast<double>(m.tokens_total));
  v.add(Metric::tokens, static_cast<double>(m.tokens));
  v.set(Metric::workers, m.workers);
  v.observe_step(m.step_seconds);
  const std::pair<StepStage, double> stages[] = {
      {StepStage::data, m.data_seconds},         {StepStage::forward, m.forward_seconds},
      {StepStage::backward, m.backward_seconds}, {StepStage::direction, m.direction_seconds},
      {StepStage::pack, m.pack_seconds},         {StepStage::exposed, m.exposed_seconds},
      {StepStage::apply, m.apply_seconds}};
  for (const auto& [stage, seconds] : stages) v.add(Metric::stage_seconds, at(stage), seconds);
  v.add(Metric::tally, m.tally_seconds);
  v.add(Metric::wire_sent, at(WirePurpose::vote),
        static_cast<double>(m.traffic.sent(Purpose::vote)));
  if (m.member_bytes > 0)
    v.add(Metric::wire_sent, at(WirePurpose::member), static_cast<double>(m.member_bytes));
  v.add(Metric::fp32_sent, m.fp32_bytes);
  if (m.votes != nullptr) {
    const VoteStatistics& votes = *m.votes;
    const double elements = std::max<double>(1, static_cast<double>(votes.elements));
    v.set(Metric::tie, static_cast<double>(votes.ties) / elements);
    v.set(Metric::unanimous, static_cast<double>(votes.unanimous) / elements);
    v.set(Metric::held_blocks, static_cast<double>(votes.held_blocks) /
                                   std::max<double>(1, static_cast<double>(votes.blocks)));
    for (std::size_t i = 0; votes.agreed.size() > 1 && i < votes.agreed.size(); ++i) {
      const std::size_t voter = i < voters.size() ? static_cast<std::size_t>(voters[i]) : i;
      // 0 / 0, not known: it abstained everywhere.
      v.set(Metric::agreement, voter,
            static_cast<double>(votes.agreed[i]) / static_cast<double>(votes.compared[i]));
    }
  }
  v.add(Metric::loss_faults, static_cast<double>(m.loss_faults));
  if (m.journal) {
    v.set(Metric::journal_lag, static_cast<double>(m.journal->lag_steps));
    v.add(Metric::journal_bytes, static_cast<double>(m.journal->bytes));
    v.add(Metric::journal_seconds, m.journal->seconds);
    v.add(Metric::journal_wait, m.journal->wait_seconds);
  }
  v.add(Metric::checkpoint_wait, m.checkpoint_wait_seconds);
  if (record_ == Record::fixed) fixed_only(m);
  caught_up(m.step);  // last: who sees the step finds the rest
}

void WorkerWatch::fixed_only(const StepMetrics& m) {
  MetricValues& v = *values_;
  v.add(Metric::stage_seconds, at(StepStage::audit), m.audit_seconds);
  v.add(Metric::communication_hidden, m.hidden_seconds);
  v.add(Metric::wire_sent, at(WirePurpose::mean),
        static_cast<double>(m.traffic.sent(Purpose::mean)));
  v.add(Metric::wire_sent, at(WirePurpose::control),
        static_cast<double>(m.traffic.sent(Purpose::control)));
  v.add(Metric::gradient_faults, static_cast<double>(m.gradient_faults));
  v.set(Metric::slowest_worker, m.slowest_voter);
  v.set(Metric::slowest_worker_seconds, m.slowest_seconds);
  for (const StepMetrics::SlowStage& slow : m.slow_stages) {
    const std::optional<StepStage> stage = stage_named(slow.stage);
    if (!stage) continue;
    v.set(Metric::stage_slowest_worker, at(*stage), slow.worker);
    v.set(Metric::stage_slowest_seconds, at(*stage), slow.seconds);
    v.set(Metric::stage_median_seconds, at(*stage), slow.median_seconds);
  }
}

void WorkerWatch::evaluated(double loss) {
  values_->set(Metric::held_out_loss, loss);
}

void WorkerWatch::checkpoint(std::int64_t step, double seconds, std::uint64_t bytes) {
  newest_checkpoint(step);
  values_->set(Metric::checkpoint_seconds, seconds);
  values_->set(Metric::checkpoint_bytes, static_cast<double>(bytes));
}

void WorkerWatch::newest_checkpoint(std::int64_t step) {
  values_->set(Metric::checkpoint_step, static_cast<double>(step));
}

}  // namespace ballot
