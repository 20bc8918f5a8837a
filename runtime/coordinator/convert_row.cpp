// The row as a store keeps it.
#include "runtime/coordinator/wire_values.h"

namespace ballot {

std::string encode(const Row& row) {
  wire::Row message;
  if (row.term) write(*row.term, *message.mutable_term());
  write(row.commit, *message.mutable_commit());
  for (const CheckpointFact& fact : row.checkpoints) write(fact, *message.add_checkpoints());
  for (const auto& [worker, newest] : row.incarnations) {
    wire::Row::Incarnation& one = *message.add_incarnations();
    one.set_worker(worker);
    one.set_newest(newest);
  }
  message.set_steps(row.steps);
  for (const auto& [worker, away] : row.sent_away) {
    wire::Row::SentAway& one = *message.add_sent_away();
    one.set_worker(worker);
    one.set_incarnation(away.incarnation);
    one.set_reason(printable(away.reason));
  }
  return serialize(message, kMostRowBytes);
}

Row decode_row(ConstBytes bytes) {
  const auto message = parse<wire::Row>(bytes, "row", kMostRowBytes);
  const Field field{nullptr, "row"};
  Row row;
  if (message.has_term()) row.term = read(message.term(), {&field, "term"});
  const Field commit{&field, "commit"};
  row.commit = read(given(message.has_commit(), message.commit(), commit), commit);
  const int checkpoints =
      read_size(message.checkpoints_size(), kMostCheckpoints, {&field, "checkpoints"});
  for (int i = 0; i < checkpoints; ++i)
    row.checkpoints.push_back(read(message.checkpoints(i), {&field, "checkpoints", i}, kMostFiles));
  const int incarnations =
      read_size(message.incarnations_size(), kMostWorkers, {&field, "incarnations"});
  for (int i = 0; i < incarnations; ++i) {
    const Field at{&field, "incarnations", i};
    const std::int32_t worker = read_worker(message.incarnations(i).worker(), {&at, "worker"});
    expect(row.incarnations.empty() || worker > row.incarnations.rbegin()->first, {&at, "worker"},
           worker, "ascending numbers");
    row.incarnations.emplace(worker, read_count(message.incarnations(i).newest(), {&at, "newest"}));
  }
  row.steps = read_count(message.steps(), {&field, "steps"});
  const int away = read_size(message.sent_away_size(), kMostWorkers, {&field, "sent_away"});
  for (int i = 0; i < away; ++i) {
    const Field at{&field, "sent_away", i};
    const wire::Row::SentAway& one = message.sent_away(i);
    const std::int32_t worker = read_worker(one.worker(), {&at, "worker"});
    expect(row.sent_away.empty() || worker > row.sent_away.rbegin()->first, {&at, "worker"}, worker,
           "ascending numbers");
    row.sent_away.emplace(
        worker, SentAwayWorker{read_count(one.incarnation(), {&at, "incarnation"}),
                               read_text(one.reason(), 0, kMostTextBytes, {&at, "reason"})});
  }
  return row;
}

}  // namespace ballot
