// The coordinator without its sockets, its store and its clock: joins and pulses in, orders and
// rows to write out.
//
// Everything that must survive it is in the row (messages.h); the rest is rebuilt from pulses.
// One write is under way at a time: beat() hands out a row, to be stored on condition that the
// stored revision still is `row.revision` (the store then raises the revision by one), and the
// outcome is told by exactly one of wrote(), refused() and unclear(). Until then orders show the
// row before it, so that nothing is said before it is durable (C1). A coordinator that lost the
// race, or cannot know, reads again before it speaks.
//
// Not for several threads at once. Nothing here throws but LogicError for calls out of turn.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "core/clock.h"
#include "runtime/protocol/membership.h"
#include "runtime/protocol/messages.h"
#include "runtime/protocol/parameter_audit.h"
#include "runtime/protocol/publication.h"

namespace ballot {

struct CoordinatorOptions {
  std::string run;
  Digest config;  // of the run's configuration: a worker with another is refused
  MembershipOptions membership;
  Duration publish_timeout = std::chrono::minutes(1);  // then another worker is named for it (R10)
};

struct JoinPending {};  // its row is not durable yet: ask again with the same Join after a beat
struct JoinRefused {
  std::string reason;
  bool sent_away = false;  // this worker, by agreement or by an operator
};
using JoinAnswer = std::variant<Identity, JoinPending, JoinRefused>;

struct WorkerStatus {
  Identity identity;
  std::string address;
  std::int32_t voter = -1;  // -1: not in the term
  // Since the coordinator began; if not, the state and what follows `silent` are not known. Not
  // told to others.
  bool heard = false;
  WorkerState state = WorkerState::joining;
  bool silent = false;
  Duration since_pulse = {};
  Position held, durable;
  std::string stage;
  std::vector<Suspicion> suspects;
  double agreement = -1;  // of its ballots with the majority of the others'; negative: not known
};

struct CoordinatorStatus {
  bool leading = false;
  std::int64_t term = 0;
  Position start, commit;
  std::int64_t head = 0;  // the furthest step held
  std::vector<WorkerStatus> workers;
  std::vector<CheckpointFact> checkpoints;
  std::int64_t steps = 0;  // the run's last; 0: not known
  std::string decision;    // steady, seal, wait, term
  std::string reason;      // what it waits for, or why it changes the term; what audits have found
  std::int64_t revision = 0;
};

// Whether an order to a worker in this state says something, beyond the one before, that should not
// wait for its next pulse.
bool is_urgent(const Order& order, const Order& before, WorkerState state);

class CoordinatorCore {
 public:
  // `row` as loaded: an empty one if the store has none. Does not lead before lead().
  CoordinatorCore(CoordinatorOptions options, Row row, TimePoint now);

  // Who holds the lease leads; with one coordinator it always does. Beginning to lead, it must read
  // the row first.
  void lead(bool leading, TimePoint now);
  bool leading() const { return leading_; }

  // Gives a worker its next incarnation. Ask again with the same Join (its nonce) while pending.
  JoinAnswer join(TimePoint now, const Join& join);

  // Nothing: it may not speak now (it does not lead, or has to read its row): the worker asks again
  // later, or another coordinator. A pulse that knows a later term or commit than the row is not
  // answered either: the row is older than the run (C5). An incarnation that nobody gave is told to
  // join, once the row has been read anew: another coordinator may have given it.
  std::optional<Order> pulse(TimePoint now, const Pulse& pulse);
  // What this incarnation would be told now, had it just said again what it said last: for orders
  // that need not wait for a pulse. Nothing: it may not speak, or has not heard that one.
  std::optional<Order> order_again(TimePoint now, const Identity& identity) const;
  // Rises whenever some order_again() may have become urgent.
  std::int64_t news() const { return news_; }
  // Its stream of pulses has ended, not by our doing. Its next pulse undoes that.
  void stream_broken(TimePoint now, const Identity& identity);

  // Decides. A row: store it now, on condition of row.revision. Call it a few times per heartbeat
  // and soon after each pulse that changed something (wants_beat()).
  std::optional<Row> beat(TimePoint now);
  bool wants_beat() const { return wants_beat_; }

  // Outcomes of the write that the last beat handed out.
  void wrote(TimePoint now);
  void refused(TimePoint now, const Row& row_as_read);
  void unclear();
  // After unclear() or lead(true): read the row and hand it in; nothing is said before.
  bool must_read() const { return must_read_; }
  // Read the row and hand it in, soon. Reading when not asked is harmless, but while a write is
  // under way.
  bool wants_read() const { return must_read_ || (wants_read_ && !writing_); }
  void loaded(TimePoint now, const Row& row_as_read);

  // By an operator: the worker is not in the next term, and in none until its process is started
  // anew. In the row with the next beat. Returns why not; empty: it is done.
  std::string expel(std::int32_t worker, std::string reason);

  const Row& row() const { return row_; }  // as known to be durable
  CoordinatorStatus status(TimePoint now) const;

 private:
  void take(TimePoint now, const Row& row);
  bool listed(const Identity& identity) const;
  std::int64_t steps() const;
  std::optional<std::string> why_not_steps(TimePoint now, const Join& join) const;
  bool may_be_at_work(TimePoint now, std::int32_t but) const;
  bool fresh(TimePoint now, const Heard& heard) const;
  Order order_for(TimePoint now, const Pulse& pulse) const;
  std::vector<Source> sources_for(TimePoint now, std::int32_t worker) const;
  std::int64_t head() const;
  bool dismissed(const Pulse& pulse) const;
  std::optional<Order> refuse_unknown(const Pulse& pulse);
  Publication::Present present(TimePoint now) const;
  void name_writer(TimePoint now);
  void audit(TimePoint now);
  void judge_voters(TimePoint now);
  std::size_t left_without(TimePoint now, std::int32_t worker) const;
  void send_away(std::int32_t worker, std::string reason);
  const SentAwayWorker* sent_away(std::int32_t worker) const;
  void find_expelled();
  void forget_asked();
  void forget_length();

  CoordinatorOptions options_;
  Row row_;
  View view_;
  std::int64_t news_ = 0;
  bool leading_ = false, must_read_ = false, wants_read_ = false, wants_beat_ = false;
  std::optional<Row> writing_;
  std::optional<Decision> writes_;  // what the row under way does
  Decision last_;                   // what was decided last, for status and the log
  TimePoint last_beat_;
  TimePoint read_at_;  // when the row was last read
  Publication publication_;
  ParameterAudit audit_;
  // Who rebuild their parameters, until they join anew, with the reason.
  std::map<Identity, std::string> to_rebuild_;
  std::map<std::int32_t, std::string> sending_away_;  // not in the row yet
  std::string voters_finding_;
  struct Asked {
    std::uint64_t nonce = 0;
    std::int64_t incarnation = 0;  // 0: not decided yet
    bool durable = false;
    bool again = false;  // by a process that was in the run already
    std::int64_t steps = 0;
  };
  std::map<std::int32_t, std::vector<Asked>> joins_;  // by worker: the last few
  std::optional<std::int64_t> new_steps_;             // of the run, where not in the row yet
  std::int64_t reads_ = 0;                            // of the row
  std::map<Identity, std::int64_t> unknown_;          // that nobody gave: reads_ at first sight
};

}  // namespace ballot
