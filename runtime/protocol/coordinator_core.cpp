// Joins, pulses and beats around the membership rule.
#include "runtime/protocol/coordinator_core.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::size_t kMostAsked = 8;  // joins of a worker that are remembered
constexpr std::size_t kMostUnknown = 4096;

}  // namespace

bool is_urgent(const Order& order, const Order& before, WorkerState state) {
  const auto term_of = [](const Order& o) { return o.record ? o.record->term : 0; };
  return term_of(order) > term_of(before) || (order.seal_at && order.seal_at != before.seal_at) ||
         (order.publish && order.publish != before.publish) ||
         order.checkpoints != before.checkpoints || (order.rewind && !before.rewind) ||
         (order.dismissed && !before.dismissed) || (order.rejoin && !before.rejoin) ||
         // The next start waits until those who are sealed have heard of it.
         (state == WorkerState::sealed && order.commit != before.commit);
}

CoordinatorCore::CoordinatorCore(CoordinatorOptions options, Row row, TimePoint now)
    : options_(std::move(options)),
      row_(std::move(row)),
      last_beat_(now),
      read_at_(now),
      publication_(options_.publish_timeout, options_.membership.mutations) {
  view_.started = now;
  publication_.follow(row_);
}

void CoordinatorCore::lead(bool leading, TimePoint now) {
  if (leading == leading_) return;
  leading_ = leading;
  if (!leading) return;
  must_read_ = true;
  sending_away_.clear();  // meanwhile another may have led: voters are judged anew
  view_.started = now;    // C5: nobody is late yet
  last_beat_ = now;
}

void CoordinatorCore::take(TimePoint now, const Row& row) {
  const std::int64_t old_term = row_.term ? row_.term->term : 0;
  const std::int64_t new_term = row.term ? row.term->term : 0;
  if (old_term != new_term || row.checkpoints != row_.checkpoints ||
      (view_.seal && row.commit != row_.commit))
    ++news_;
  row_ = row;
  writing_.reset();
  writes_.reset();
  must_read_ = wants_read_ = false;
  if (old_term != new_term) view_.seal.reset();
  std::erase_if(view_.ahead, [&](const auto& entry) {
    const Pulse& pulse = entry.second.pulse;
    return pulse.term <= new_term && pulse.told.step <= row_.commit.step;
  });
  publication_.follow(row_);
  forget_asked();
  last_beat_ = now;
  wants_beat_ = true;
}

// Whether it was written is not known, or it was not: the next row decides anew.
void CoordinatorCore::forget_asked() {
  for (auto& [worker, joins] : joins_)
    for (Asked& asked : joins)
      if (!asked.durable) asked.incarnation = 0;
}

// Of another row than the one that it was judged by: who has that length asks again.
void CoordinatorCore::forget_length() {
  new_steps_.reset();
  for (auto& [worker, joins] : joins_)
    std::erase_if(joins, [&](const Asked& asked) {
      return !asked.durable && asked.steps > 0 && asked.steps != row_.steps;
    });
}

void CoordinatorCore::loaded(TimePoint now, const Row& row_as_read) {
  ++reads_;
  read_at_ = now;
  take(now, row_as_read);
  forget_length();
}

std::int64_t CoordinatorCore::steps() const {
  return new_steps_.value_or(row_.steps);
}

// A run's length is what all of its workers have. It changes while none of them is there, or when
// it has been reached.
std::optional<std::string> CoordinatorCore::why_not_steps(TimePoint now, const Join& join) const {
  if (join.steps == 0 || steps() == 0 || join.steps == steps()) return std::nullopt;
  if (join.steps < row_.commit.step)
    return fmt::format("train.steps = {}, step {} is committed already", join.steps,
                       row_.commit.step);
  if (has_ended(row_) && !new_steps_) return std::nullopt;
  for (const auto& [worker, heard] : view_.heard)
    if (worker != join.worker && fresh(now, heard) && !heard.pulse.leaving &&
        !view_.broken.contains(worker))
      return fmt::format(
          "train.steps = {}, the run's is {} and worker {} is at work on it: its length changes "
          "when it has ended or its workers were told to leave",
          join.steps, steps(), worker);
  if (new_steps_) return fmt::format("train.steps = {}, the run's is {} now", join.steps, steps());
  return std::nullopt;
}

// A coordinator that has just begun does not know yet who is at work, nor whether somebody whose
// stream broke is.
bool CoordinatorCore::may_be_at_work(TimePoint now, std::int32_t but) const {
  if (has_ended(row_)) return false;
  if (now - view_.started <= options_.membership.heartbeat_timeout) return true;
  return std::ranges::any_of(view_.heard, [&](const auto& entry) {
    const auto& [worker, heard] = entry;
    return worker != but && fresh(now, heard) && !heard.pulse.leaving;
  });
}

JoinAnswer CoordinatorCore::join(TimePoint now, const Join& join) {
  if (!leading_ || must_read_) return JoinPending{};
  if (join.run != options_.run)
    return JoinRefused{
        fmt::format("run \"{}\", this coordinator serves \"{}\"", join.run, options_.run)};
  if (join.config != options_.config)
    return JoinRefused{fmt::format("a configuration with digest {}, the run's has {}",
                                   to_string(join.config), to_string(options_.config))};
  if (join.worker < -1) return JoinRefused{fmt::format("worker {}", join.worker)};
  if (const auto why = why_not_steps(now, join)) return JoinRefused{*why};
  if (join.steps > 0 && steps() > 0 && join.steps != steps() && may_be_at_work(now, join.worker))
    return JoinPending{};
  if (const SentAwayWorker* away = sent_away(join.worker); away != nullptr && join.again)
    return JoinRefused{
        fmt::format("worker {} was sent away: {}; once that is mended, start its process anew",
                    join.worker, away->reason),
        true};
  if (join.steps > 0 && join.steps != steps()) new_steps_ = join.steps;
  std::int32_t worker = join.worker;
  if (worker == -1) {
    for (const auto& [number, joins] : joins_)
      if (std::ranges::find(joins, join.nonce, &Asked::nonce) != joins.end()) worker = number;
    if (worker == -1)
      for (worker = 0; row_.incarnations.contains(worker) || joins_.contains(worker);) ++worker;
  }
  if (options_.membership.mutations.restart_in_place && row_.term)
    if (const TermWorker* place = row_.term->find(worker)) return place->identity;
  // Each nonce gets one incarnation, however often and late it is repeated: another one would fence
  // the try that goes on.
  std::vector<Asked>& joins = joins_[worker];
  const auto asked = std::ranges::find(joins, join.nonce, &Asked::nonce);
  if (asked != joins.end() && asked->durable) return Identity{worker, asked->incarnation};
  if (asked == joins.end()) {
    if (joins.size() == kMostAsked) joins.erase(joins.begin());
    joins.push_back({join.nonce, 0, false, join.again, join.steps});
  }
  wants_beat_ = true;
  return JoinPending{};
}

std::optional<Order> CoordinatorCore::pulse(TimePoint now, const Pulse& pulse) {
  if (!leading_ || must_read_) return std::nullopt;
  const auto newest = row_.incarnations.find(pulse.identity.worker);
  const std::int64_t incarnation = newest == row_.incarnations.end() ? 0 : newest->second;
  if (pulse.identity.incarnation < incarnation) {
    Order order;
    order.incarnation = pulse.identity.incarnation;
    order.rejoin = true;
    return order;
  }
  const std::int64_t term = row_.term ? row_.term->term : 0;
  const bool unknown = pulse.identity.incarnation > incarnation;
  const bool knows_more = pulse.term > term || pulse.told.step > row_.commit.step;
  view_.broken.erase(pulse.identity.worker);
  if (!options_.membership.recover) {
    // One that nobody gave joins first; then it may say that the row is old. But a term that is
    // going on is left alone.
    if (unknown && pulse.term <= term) return refuse_unknown(pulse);
    if (knows_more) {
      // Either another coordinator wrote and this one has to read, or the store is older than the
      // run.
      view_.ahead.insert_or_assign(pulse.identity.worker, Heard{pulse, now});
      wants_beat_ = true;
      must_read_ = !writing_;
      return std::nullopt;
    }
    view_.ahead.erase(pulse.identity.worker);
  }
  const auto known = view_.heard.find(pulse.identity.worker);
  if (known != view_.heard.end()) {
    const Pulse& old = known->second.pulse;
    const auto age = [](const Pulse& p) { return std::pair(p.identity.incarnation, p.sequence); };
    if (age(pulse) < age(old)) return order_for(now, pulse);  // overtaken on its way
    if (pulse.state != old.state || pulse.ready != old.ready || pulse.told != old.told ||
        pulse.leaving != old.leaving || pulse.suspects.size() != old.suspects.size() ||
        pulse.judgement.accused.size() != old.judgement.accused.size() ||
        pulse.identity != old.identity)
      wants_beat_ = true;
  } else {
    wants_beat_ = true;
  }
  view_.heard.insert_or_assign(pulse.identity.worker, Heard{pulse, now});
  if (!unknown && !knows_more) {
    if (publication_.hear(pulse, row_)) {
      name_writer(now);
      wants_beat_ = true;
    }
    return order_for(now, pulse);
  }
  if (pulse.state != WorkerState::voting) return std::nullopt;
  Order order;  // recovering
  order.incarnation = pulse.identity.incarnation;
  order.term = pulse.term;
  order.seal_at = 0;
  return order;
}

std::optional<Order> CoordinatorCore::refuse_unknown(const Pulse& pulse) {
  if (unknown_.size() > kMostUnknown) unknown_.clear();
  const auto [seen, first] = unknown_.emplace(pulse.identity, reads_);
  wants_read_ = wants_read_ || first;
  if (seen->second == reads_) return std::nullopt;
  Order order;
  order.incarnation = pulse.identity.incarnation;
  order.rejoin = true;
  return order;
}

std::optional<Order> CoordinatorCore::order_again(TimePoint now, const Identity& identity) const {
  if (!leading_ || must_read_) return std::nullopt;
  const auto heard = view_.heard.find(identity.worker);
  const auto newest = row_.incarnations.find(identity.worker);
  if (heard == view_.heard.end() || heard->second.pulse.identity != identity ||
      newest == row_.incarnations.end() || newest->second != identity.incarnation ||
      view_.ahead.contains(identity.worker))
    return std::nullopt;
  return order_for(now, heard->second.pulse);
}

void CoordinatorCore::stream_broken(TimePoint now, const Identity& identity) {
  view_.broken.insert_or_assign(identity.worker, View::Broken{identity, now});
}

Publication::Present CoordinatorCore::present(TimePoint now) const {
  return [this, now](std::int32_t worker) -> std::optional<Identity> {
    const auto heard = view_.heard.find(worker);
    if (heard == view_.heard.end() || !fresh(now, heard->second) || view_.broken.contains(worker))
      return std::nullopt;
    return heard->second.pulse.identity;
  };
}

bool CoordinatorCore::listed(const Identity& identity) const {
  if (!row_.term) return false;
  const TermWorker* worker = row_.term->find(identity.worker);
  return worker != nullptr && worker->identity == identity;
}

bool CoordinatorCore::fresh(TimePoint now, const Heard& heard) const {
  return now - std::max(heard.at, view_.started) <= options_.membership.heartbeat_timeout;
}

Order CoordinatorCore::order_for(TimePoint now, const Pulse& pulse) const {
  Order order;
  order.incarnation = pulse.identity.incarnation;
  order.commit = row_.commit;
  order.head = head();
  // Sent away, and not in a step: it learns why when it asks to join.
  order.rejoin = sent_away(pulse.identity.worker) != nullptr &&
                 (pulse.state != WorkerState::voting || !listed(pulse.identity));
  const bool joining = pulse.state == WorkerState::joining;
  if (row_.term) {
    order.term = row_.term->term;
    const bool knows = !joining && pulse.term >= row_.term->term;
    if (!knows && (!joining || listed(pulse.identity))) order.record = row_.term;
    if (pulse.state == WorkerState::voting && pulse.term == row_.term->term && view_.seal)
      order.seal_at = view_.seal->at;
  }
  if (joining) order.sources = sources_for(now, pulse.identity.worker);
  for (const CheckpointFact& fact : row_.checkpoints) order.checkpoints.push_back(fact.position);
  order.publish = publication_.order_to(pulse.identity);
  order.rewind = to_rebuild_.contains(pulse.identity);
  order.steps = row_.steps;
  order.dismissed = pulse.leaving && dismissed(pulse);
  return order;
}

// Workers of the term that have its start; with none of them left (C3), whoever has the commit.
std::vector<Source> CoordinatorCore::sources_for(TimePoint now, std::int32_t worker) const {
  std::vector<Source> members, others;
  for (const auto& [number, heard] : view_.heard) {
    const Pulse& pulse = heard.pulse;
    if (number == worker || !fresh(now, heard) || view_.broken.contains(number)) continue;
    const Source source{pulse.identity, pulse.address, pulse.held.step};
    const bool of_term = row_.term && pulse.state != WorkerState::joining &&
                         pulse.term == row_.term->term && listed(pulse.identity);
    if (of_term && pulse.has_start)
      members.push_back(source);
    else if (pulse.has_commit && pulse.told == row_.commit)
      others.push_back(source);
  }
  return members.empty() ? others : members;
}

std::int64_t CoordinatorCore::head() const {
  if (!row_.term) return 0;
  std::int64_t step = row_.term->start.step;
  for (const auto& [number, heard] : view_.heard)
    if (heard.pulse.state != WorkerState::joining && heard.pulse.term == row_.term->term &&
        listed(heard.pulse.identity))
      step = std::max(step, heard.pulse.held.step);
  return step;
}

bool CoordinatorCore::dismissed(const Pulse& pulse) const {
  if (!listed(pulse.identity)) return true;
  if (pulse.state != WorkerState::sealed || pulse.durable != pulse.held) return false;
  // The last to leave: nobody is left who could want anything.
  return std::ranges::all_of(row_.term->workers, [&](const TermWorker& worker) {
    const auto heard = view_.heard.find(worker.identity.worker);
    return heard != view_.heard.end() && heard->second.pulse.leaving;
  });
}

std::optional<Row> CoordinatorCore::beat(TimePoint now) {
  if (!leading_ || must_read_ || writing_) return std::nullopt;
  wants_beat_ = false;
  // This process was stopped: what it has not heard says nothing about the others.
  if (now - last_beat_ > options_.membership.heartbeat_timeout / 2) view_.started = now;
  last_beat_ = now;
  audit(now);
  find_expelled();
  judge_voters(now);
  name_writer(now);

  Decision decision = next(now, row_, view_, options_.membership);
  // Another may have written after this one read, and all who would tell have ended: whoever only
  // waits writes nothing that would be refused.
  if (decision.kind == Decision::Kind::wait &&
      now - read_at_ > options_.membership.heartbeat_timeout)
    wants_read_ = true;
  Row row = row_;
  bool changed = false;
  for (auto& [worker, joins] : joins_) {
    // Asked before it was sent away: it will be refused.
    if (sent_away(worker) != nullptr || sending_away_.contains(worker))
      std::erase_if(joins, [](const Asked& asked) { return !asked.durable && asked.again; });
    for (Asked& asked : joins) {
      if (asked.durable) continue;
      asked.incarnation = ++row.incarnations[worker];
      row.sent_away.erase(worker);  // another process
      sending_away_.erase(worker);
      changed = true;
    }
  }
  for (const auto& [worker, reason] : sending_away_) {
    const auto newest = row.incarnations.find(worker);
    if (newest == row.incarnations.end()) continue;
    row.sent_away[worker] = {newest->second, reason};
    changed = true;
  }
  if (new_steps_ && *new_steps_ != row.steps) {
    row.steps = *new_steps_;
    changed = true;
  }
  if (options_.membership.recover)  // the lost row gave them
    for (const auto& [worker, heard] : view_.heard) {
      std::int64_t& newest = row.incarnations[worker];
      if (newest >= heard.pulse.identity.incarnation) continue;
      newest = heard.pulse.identity.incarnation;
      changed = true;
    }
  if (decision.kind == Decision::Kind::seal) {
    view_.seal = View::Seal{decision.seal_at, now, decision.reason};
    ++news_;
  }
  if (decision.kind == Decision::Kind::term) {
    decision.record->config = options_.config;
    row.term = decision.record;
    changed = true;
  }
  if (decision.commit.step > row.commit.step) {
    row.commit = decision.commit;
    changed = true;
  }
  if (std::optional<CheckpointFact> fact = publication_.published(row_)) {
    row.checkpoints.push_back(std::move(*fact));
    if (row.checkpoints.size() > 2) row.checkpoints.erase(row.checkpoints.begin());
    changed = true;
  }
  last_ = decision;
  if (!changed) return std::nullopt;
  writing_ = row;
  writes_ = std::move(decision);
  if (options_.membership.mutations.speak_before_write) row_ = row;
  return row;
}

void CoordinatorCore::wrote(TimePoint now) {
  require(writing_.has_value(), "no row was being written");
  Row row = std::move(*writing_);
  ++row.revision;
  const bool suspicions = writes_->kind == Decision::Kind::term && writes_->suspicions;
  for (auto& [worker, joins] : joins_)
    for (Asked& asked : joins) {
      if (asked.durable || asked.incarnation == 0) continue;  // asked while it was under way
      asked.durable = true;
    }
  for (const auto& [worker, away] : row.sent_away) {
    const auto sending = sending_away_.find(worker);
    if (sending != sending_away_.end() && sending->second == away.reason)
      sending_away_.erase(sending);
  }
  if (row.term != row_.term) view_.seal.reset();
  if (new_steps_ == row.steps) new_steps_.reset();
  take(now, row);
  if (suspicions) view_.last_pardoned = now;
}

void CoordinatorCore::refused(TimePoint now, const Row& row_as_read) {
  require(writing_.has_value(), "no row was being written");
  ++reads_;
  take(now, row_as_read);
  forget_length();
}

void CoordinatorCore::unclear() {
  require(writing_.has_value(), "no row was being written");
  writing_.reset();
  writes_.reset();
  must_read_ = true;
  forget_asked();
}

void CoordinatorCore::name_writer(TimePoint now) {
  if (publication_.name_writer(now, row_, present(now))) ++news_;
}

// A worker whose parameters are wrong is in no term until it has rebuilt them and joined anew.
void CoordinatorCore::audit(TimePoint now) {
  std::vector<const Pulse*> pulses;
  for (const auto& [worker, heard] : view_.heard) {
    const auto newest = row_.incarnations.find(worker);
    if (fresh(now, heard) && newest != row_.incarnations.end() &&
        newest->second == heard.pulse.identity.incarnation)
      pulses.push_back(&heard.pulse);
  }
  std::set<Identity> term;
  if (row_.term)
    for (const TermWorker& worker : row_.term->workers) term.insert(worker.identity);
  audit_.look(pulses, term);
  const auto is_newest = [&](const Identity& identity) {
    const auto newest = row_.incarnations.find(identity.worker);
    return newest != row_.incarnations.end() && newest->second == identity.incarnation;
  };
  std::erase_if(to_rebuild_, [&](const auto& entry) { return !is_newest(entry.first); });
  for (const auto* found : {&audit_.wrong(), &audit_.to_replay()})
    for (const auto& [identity, reason] : *found)
      if ((found == &audit_.wrong() || !options_.membership.mutations.rebuild_nobody) &&
          is_newest(identity) && to_rebuild_.try_emplace(identity, reason).second)
        ++news_;
}

const SentAwayWorker* CoordinatorCore::sent_away(std::int32_t worker) const {
  const auto away = row_.sent_away.find(worker);
  const auto newest = row_.incarnations.find(worker);
  if (away == row_.sent_away.end() || newest == row_.incarnations.end() ||
      newest->second > away->second.incarnation)
    return nullptr;
  return &away->second;
}

// Who may not be in the next term, for the membership rule.
void CoordinatorCore::find_expelled() {
  view_.expelled = sending_away_;
  for (const auto& [worker, away] : row_.sent_away)
    if (sent_away(worker) != nullptr) view_.expelled.insert_or_assign(worker, away.reason);
  view_.sent_away.clear();
  for (const auto& [worker, reason] : view_.expelled) view_.sent_away.insert(worker);
  for (const auto& [identity, reason] : to_rebuild_)
    view_.expelled.try_emplace(identity.worker, reason);
}

void CoordinatorCore::send_away(std::int32_t worker, std::string reason) {
  sending_away_.insert_or_assign(worker, std::move(reason));
  find_expelled();
  wants_beat_ = true;
}

// How many there would be in the next term without it, as far as it is known.
std::size_t CoordinatorCore::left_without(TimePoint now, std::int32_t worker) const {
  return static_cast<std::size_t>(std::ranges::count_if(view_.heard, [&](const auto& entry) {
    const auto& [number, heard] = entry;
    const Pulse& pulse = heard.pulse;
    if (number == worker || !fresh(now, heard) || pulse.leaving || view_.expelled.contains(number))
      return false;
    const bool of_term = listed(pulse.identity) && pulse.state != WorkerState::joining;
    return of_term || (pulse.state == WorkerState::joining && pulse.ready);
  }));
}

// A voter goes when more than half of its term, itself not asked, say that its ballots are at
// chance. It could come back at once and be as bad: so not this process of it. Below min_workers
// nobody would vote at all: it stays, and status says so (D34).
void CoordinatorCore::judge_voters(TimePoint now) {
  voters_finding_.clear();
  if (!row_.term) return;
  std::map<std::int32_t, std::pair<std::size_t, std::string>> accused;
  for (const TermWorker& worker : row_.term->workers) {
    const auto heard = view_.heard.find(worker.identity.worker);
    if (heard == view_.heard.end() || !fresh(now, heard->second)) continue;
    const Pulse& pulse = heard->second.pulse;
    if (pulse.identity != worker.identity || pulse.state == WorkerState::joining ||
        pulse.term != row_.term->term)
      continue;
    std::set<std::int32_t> once;
    for (const Suspicion& one : pulse.judgement.accused)
      if (one.worker != worker.identity.worker && once.insert(one.worker).second) {
        auto& [votes, reason] = accused[one.worker];
        ++votes;
        reason = one.reason;
      }
  }
  for (auto& [worker, told] : accused) {
    const TermWorker* listed_worker = row_.term->find(worker);
    if (listed_worker == nullptr || 2 * told.first <= row_.term->workers.size()) continue;
    const auto newest = row_.incarnations.find(worker);
    if (newest == row_.incarnations.end() || newest->second != listed_worker->identity.incarnation)
      continue;  // it has joined anew already
    if (sent_away(worker) != nullptr || sending_away_.contains(worker)) continue;
    const auto least = static_cast<std::size_t>(std::max(1, options_.membership.min_workers));
    const std::size_t left = left_without(now, worker);
    if (left < least) {
      voters_finding_ += fmt::format(
          "{}worker {} is not sent away, although {}: {} workers would be left, the least is {}",
          voters_finding_.empty() ? "" : "; ", worker, told.second, left, least);
      continue;
    }
    send_away(worker, std::move(told.second));
  }
}

std::string CoordinatorCore::expel(std::int32_t worker, std::string reason) {
  if (!leading_ || must_read_) return "this coordinator has not read its row yet";
  if (!row_.incarnations.contains(worker))
    return fmt::format("there has never been a worker {} in this run", worker);
  send_away(worker, std::move(reason));
  return {};
}

CoordinatorStatus CoordinatorCore::status(TimePoint now) const {
  CoordinatorStatus status;
  status.leading = leading_;
  status.term = row_.term ? row_.term->term : 0;
  if (row_.term) status.start = row_.term->start;
  status.commit = row_.commit;
  status.head = head();
  status.checkpoints = row_.checkpoints;
  status.steps = row_.steps;
  status.decision = to_string(last_.kind);
  status.reason = must_read_ ? "the row has to be read" : last_.reason;
  for (const std::string& finding : {audit_.finding(), publication_.finding(), voters_finding_})
    if (!finding.empty()) status.reason += (status.reason.empty() ? "" : "; ") + finding;
  status.revision = row_.revision;
  for (const auto& [number, heard] : view_.heard) {
    const Pulse& pulse = heard.pulse;
    WorkerStatus worker;
    worker.identity = pulse.identity;
    worker.address = pulse.address;
    if (listed(pulse.identity)) worker.voter = row_.term->find(number)->voter;
    worker.heard = true;
    worker.state = pulse.state;
    worker.silent = !fresh(now, heard);
    worker.since_pulse = now - heard.at;
    worker.held = pulse.held;
    worker.durable = pulse.durable;
    worker.stage = pulse.stage;
    worker.suspects = pulse.suspects;
    worker.agreement = pulse.judgement.agreement;
    status.workers.push_back(std::move(worker));
  }
  if (!row_.term) return status;
  for (const TermWorker& listed_worker : row_.term->workers) {
    if (view_.heard.contains(listed_worker.identity.worker)) continue;
    WorkerStatus worker;
    worker.identity = listed_worker.identity;
    worker.address = listed_worker.address;
    worker.voter = listed_worker.voter;
    worker.silent = !is_live(now, listed_worker, row_, view_, options_.membership);
    worker.stage = "not heard since the coordinator started";
    status.workers.push_back(std::move(worker));
  }
  return status;
}

}  // namespace ballot
