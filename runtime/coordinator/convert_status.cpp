// The answer to `ballot status` as bytes.
#include <algorithm>

#include "runtime/coordinator/service_status.h"
#include "runtime/coordinator/wire_values.h"

namespace ballot {
namespace {

constexpr std::size_t kMostReasonBytes = 4000;  // it may name many workers
constexpr std::size_t kMostRefusalKinds = 100;
constexpr std::size_t kMostChanges = 100;
// Of each worker, so that the answer stays within its limit with all of them.
constexpr int kShownSuspects = 4;
constexpr std::size_t kShownBytes = 120;

}  // namespace

std::string encode(const ServiceStatus& status) {
  const CoordinatorStatus& from = status.coordinator;
  wire::StatusAnswer message;
  message.set_run(status.run);
  message.set_version(status.version);
  message.set_store(printable(status.store));
  message.set_seconds_up(status.seconds_up);
  message.set_steps_per_second(status.commit_rate);
  message.set_leading(from.leading);
  message.set_term(from.term);
  write(from.start, *message.mutable_start());
  write(from.commit, *message.mutable_commit());
  message.set_head(from.head);
  for (const WorkerStatus& worker : from.workers) {
    wire::WorkerStatus& one = *message.add_workers();
    write(worker.identity, *one.mutable_identity());
    one.set_address(worker.address);
    one.set_voter(worker.voter);
    one.set_state(wire_state(worker.state));
    one.set_silent(worker.silent);
    one.set_seconds_since_pulse(std::max(0.0, seconds(worker.since_pulse)));
    write(worker.held, *one.mutable_held());
    write(worker.durable, *one.mutable_durable());
    one.set_stage(printable(worker.stage, kShownBytes));
    for (const Suspicion& suspicion : worker.suspects) {
      if (one.suspects_size() == kShownSuspects) break;
      wire::Suspicion& suspect = *one.add_suspects();
      suspect.set_worker(suspicion.worker);
      suspect.set_reason(printable(suspicion.reason, kShownBytes));
    }
    const auto rate = status.rates.find(worker.identity.worker);
    if (rate != status.rates.end()) one.set_steps_per_second(rate->second);
    if (worker.agreement >= 0) one.set_agreement(worker.agreement);
  }
  for (const CheckpointFact& fact : from.checkpoints) write(fact, *message.add_checkpoints());
  message.set_decision(from.decision);
  message.set_reason(printable(from.reason, kMostReasonBytes));
  message.set_revision(from.revision);
  message.set_steps(from.steps);
  if (status.recorded) write(*status.recorded, *message.mutable_recorded());
  for (const auto& [reason, count] : status.refusals) {
    wire::RefusalCount& one = *message.add_refusals();
    one.set_reason(reason);
    one.set_count(count);
  }
  for (const TermChange& change : status.changes) {
    wire::TermChange& one = *message.add_changes();
    one.set_term(change.term);
    one.set_reason(printable(change.reason));
    one.set_seconds_ago(std::max(0.0, change.seconds_ago));
  }
  return serialize(message, kMostAnswerBytes);
}

ServiceStatus decode_status(ConstBytes bytes) {
  const auto message = parse<wire::StatusAnswer>(bytes, "status", kMostAnswerBytes);
  const Field field{nullptr, "status"};
  ServiceStatus status;
  CoordinatorStatus& to = status.coordinator;
  status.run = read_text(message.run(), 0, kMostRunBytes, {&field, "run"});
  status.version = read_text(message.version(), 0, kMostVersionBytes, {&field, "version"});
  status.store = read_text(message.store(), 0, kMostTextBytes, {&field, "store"});
  status.seconds_up = read_measure(message.seconds_up(), {&field, "seconds_up"});
  status.commit_rate = read_measure(message.steps_per_second(), {&field, "steps_per_second"});
  to.leading = message.leading();
  to.term = read_count(message.term(), {&field, "term"});
  to.start = read(message.start(), {&field, "start"});
  to.commit = read(message.commit(), {&field, "commit"});
  to.head = read_count(message.head(), {&field, "head"});
  const int workers = read_size(message.workers_size(), kMostWorkers, {&field, "workers"});
  for (int i = 0; i < workers; ++i) {
    const Field at{&field, "workers", i};
    const wire::WorkerStatus& one = message.workers(i);
    WorkerStatus worker;
    worker.identity =
        read(given(one.has_identity(), one.identity(), {&at, "identity"}), {&at, "identity"});
    worker.address = read_text(one.address(), 0, kMostAddressBytes, {&at, "address"});
    worker.voter = one.voter();
    if (worker.voter != -1) read_worker(worker.voter, {&at, "voter"});
    worker.state = read_state(one.state(), {&at, "state"});
    worker.silent = one.silent();
    worker.since_pulse = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(
        std::min(1e8, read_measure(one.seconds_since_pulse(), {&at, "seconds_since_pulse"}))));
    worker.held = read(one.held(), {&at, "held"});
    worker.durable = read(one.durable(), {&at, "durable"});
    worker.stage = read_text(one.stage(), 0, kMostTextBytes, {&at, "stage"});
    const int suspects = read_size(one.suspects_size(), kShownSuspects, {&at, "suspects"});
    for (int k = 0; k < suspects; ++k) {
      const Field suspect{&at, "suspects", k};
      worker.suspects.push_back(
          {read_worker(one.suspects(k).worker(), {&suspect, "worker"}),
           read_text(one.suspects(k).reason(), 0, kMostTextBytes, {&suspect, "reason"})});
    }
    status.rates[worker.identity.worker] =
        read_measure(one.steps_per_second(), {&at, "steps_per_second"});
    if (one.has_agreement()) worker.agreement = read_share(one.agreement(), {&at, "agreement"});
    to.workers.push_back(std::move(worker));
  }
  const int checkpoints =
      read_size(message.checkpoints_size(), kMostCheckpoints, {&field, "checkpoints"});
  for (int i = 0; i < checkpoints; ++i)
    to.checkpoints.push_back(read(message.checkpoints(i), {&field, "checkpoints", i}, kMostFiles));
  to.decision = read_text(message.decision(), 0, kMostTextBytes, {&field, "decision"});
  to.reason = read_text(message.reason(), 0, kMostReasonBytes, {&field, "reason"});
  to.revision = read_count(message.revision(), {&field, "revision"});
  to.steps = read_count(message.steps(), {&field, "steps"});
  if (message.has_recorded()) status.recorded = read(message.recorded(), {&field, "recorded"});
  const int refusals = read_size(message.refusals_size(), kMostRefusalKinds, {&field, "refusals"});
  for (int i = 0; i < refusals; ++i) {
    const Field at{&field, "refusals", i};
    status.refusals[read_text(message.refusals(i).reason(), 1, kMostTextBytes, {&at, "reason"})] =
        read_count(message.refusals(i).count(), {&at, "count"});
  }
  const int changes = read_size(message.changes_size(), kMostChanges, {&field, "changes"});
  for (int i = 0; i < changes; ++i) {
    const Field at{&field, "changes", i};
    const wire::TermChange& one = message.changes(i);
    status.changes.push_back({read_count(one.term(), {&at, "term"}),
                              read_text(one.reason(), 0, kMostTextBytes, {&at, "reason"}),
                              read_measure(one.seconds_ago(), {&at, "seconds_ago"})});
  }
  return status;
}

}  // namespace ballot
