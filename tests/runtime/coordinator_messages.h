// Values of every message of the coordinator, full of everything they may hold.
#pragma once

#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/service_status.h"

namespace ballot::test {

inline TermRecord full_record() {
  TermRecord record;
  record.term = 7;
  record.workers = {{{0, 3}, "127.0.0.1:20000", 0}, {{2, 1}, "[::1]:20002", 0}, {{5, 9}, "a:1", 1}};
  record.start = {41, {1, 2}};
  record.sources = {0, 5};
  record.kept = {{0, {128, 160}}, {1, {160, 192}}};
  record.copies = 2;
  record.quorum = 1;
  record.config = {0xffffffffffffffff, 5};
  return record;
}

inline CheckpointFact full_checkpoint() {
  return {{40, {3, 4}}, {5, 6}, {"model.safetensors", "trainer/state-0.safetensors"}, 1, 3};
}

inline Join full_join() {
  Join join;
  join.run = "a run";
  join.worker = 4;
  join.nonce = 0xfedcba9876543210;
  join.address = "10.0.0.1:29500";
  join.config = {7, 8};
  join.version = "0.1.0";
  join.steps = 500;
  join.again = true;
  return join;
}

inline RecordedStep full_recorded() {
  RecordedStep recorded;
  recorded.step = 41;
  recorded.loss = 2.25;
  recorded.tokens_per_second = 1234.5;
  recorded.tokens_total = 83968;
  recorded.bytes_sent = 123456;
  recorded.fp32_bytes = 15000000;
  recorded.ties = 0.25;
  recorded.agreement = 0.625;
  return recorded;
}

inline Pulse full_pulse() {
  Pulse pulse;
  pulse.identity = {4, 2};
  pulse.sequence = 1000;
  pulse.state = WorkerState::sealed;
  pulse.address = "10.0.0.1:29500";
  pulse.term = 7;
  pulse.held = {42, {9, 10}};
  pulse.durable = {41, {1, 2}};
  pulse.held_term = 6;
  pulse.applied = 41;
  pulse.pending = Pulse::Pending{{42, {9, 10}}, {192, 224}};
  pulse.told = {40, {3, 4}};
  pulse.has_commit = pulse.has_start = pulse.ready = pulse.leaving = true;
  pulse.suspects = {{5, "no ballot within 600 s"}, {2, ""}};
  pulse.stage = "waits for the verdict";
  pulse.checkpoints = {full_checkpoint(), full_checkpoint()};
  pulse.published = {30, {11, 12}};
  pulse.parameters = {{{32, {13, 14}}, {15, 16}}, {{41, {1, 2}}, {17, 18}}};
  pulse.judgement = {0.625, {{2, "at chance"}}};
  pulse.rebuilt = Rebuilt{{41, {1, 2}}, 37};
  pulse.recorded = full_recorded();
  return pulse;
}

inline Order full_order() {
  Order order;
  order.incarnation = 2;
  order.term = 7;
  order.record = full_record();
  order.seal_at = 0;
  order.head = 42;
  order.sources = {{{0, 3}, "127.0.0.1:20000", 42}};
  order.commit = {41, {1, 2}};
  order.publish = full_checkpoint();
  order.checkpoints = {{20, {19, 20}}, {30, {11, 12}}};
  order.steps = 500;
  order.reason = "worker 2 is silent";
  order.rejoin = order.rewind = order.dismissed = true;
  return order;
}

inline Row full_row() {
  Row row;
  row.term = full_record();
  row.commit = {41, {1, 2}};
  row.checkpoints = {full_checkpoint(), full_checkpoint()};
  row.incarnations = {{0, 3}, {2, 1}, {5, 9}};
  row.steps = 500;
  row.sent_away = {{2, {1, "its disk fails"}}, {5, {8, ""}}};
  return row;
}

inline ServiceStatus full_status() {
  ServiceStatus status;
  CoordinatorStatus& to = status.coordinator;
  to.leading = true;
  to.term = 7;
  to.start = {41, {1, 2}};
  to.commit = {41, {1, 2}};
  to.head = 42;
  to.steps = 500;
  WorkerStatus worker;
  worker.identity = {4, 2};
  worker.address = "10.0.0.1:29500";
  worker.state = WorkerState::voting;
  worker.silent = true;
  worker.since_pulse = std::chrono::milliseconds(1500);
  worker.held = {42, {9, 10}};
  worker.durable = {41, {1, 2}};
  worker.stage = "votes";
  worker.suspects = {{5, "late"}};
  worker.agreement = 0.75;
  to.workers = {worker};
  to.checkpoints = {full_checkpoint()};
  to.decision = "wait";
  to.reason = "1 of 2 workers have joined";
  to.revision = 12;
  status.run = "a run";
  status.version = "0.1.0";
  status.store = "run/coordinator.db";
  status.seconds_up = 12.5;
  status.commit_rate = 0.5;
  status.recorded = full_recorded();
  status.rates = {{4, 2.0}};
  status.changes = {{7, "worker 3 fell silent or restarted", 3.5}};
  status.refusals = {{"token", 3}};
  return status;
}

}  // namespace ballot::test
