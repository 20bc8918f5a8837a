// C2-C5 of docs/protocol.md, in the order in which they are asked.
#include "runtime/protocol/membership.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/error.h"

namespace ballot {
namespace {

// A worker that may be in the next term.
struct Candidate {
  const Pulse* pulse = nullptr;
  bool stays = false;  // sealed in the row's term: its history is a prefix of the next start (R1)
};

// C2's order of histories: a record of a later term supersedes those of earlier ones.
bool before(const Pulse& a, const Pulse& b) {
  if (a.held_term != b.held_term) return a.held_term < b.held_term;
  return a.held.step < b.held.step;
}

std::string names(const std::vector<std::int32_t>& workers) {
  return fmt::format("worker{} {}", workers.size() == 1 ? "" : "s", fmt::join(workers, ", "));
}

class Rule {
 public:
  Rule(TimePoint now, const Row& row, const View& view, const MembershipOptions& options)
      : now_(now), row_(row), view_(view), options_(options) {
    if (!row.term) return;
    for (const TermWorker& worker : row.term->workers) {
      const Pulse* pulse = pulse_of(worker.identity.worker);
      const bool itself = pulse != nullptr && pulse->identity == worker.identity;
      if (!is_live(now, worker, row, view, options)) {
        gone_.push_back(worker.identity.worker);
        continue;
      }
      live_.push_back(worker.identity.worker);
      if (!itself || pulse->term != row.term->term || pulse->state == WorkerState::joining) {
        absent_.push_back(worker.identity.worker);  // has not heard of the term, or not been heard
        unsealed_.push_back(worker.identity.worker);
        continue;
      }
      members_.push_back(pulse);
      if (pulse->state != WorkerState::sealed) unsealed_.push_back(worker.identity.worker);
    }
  }

  Decision decide() const {
    if (const auto decision = row_behind()) return *decision;
    if (!row_.term) return first();
    if (has_ended(row_)) return ended();
    const std::string urgent = urgent_reason(), planned = planned_reason();
    if (!view_.seal) {
      if (!urgent.empty()) return seal(0, urgent);
      if (!planned.empty()) return seal(head() + 2, planned);
      return steady();
    }
    const View::Seal& ordered = *view_.seal;
    const Duration since = now_ - ordered.since;
    if (ordered.at > 0 && !unsealed_.empty()) {
      if (!urgent.empty()) return seal(0, urgent);
      if (since >= options_.planned_timeout)
        return seal(0, fmt::format("{} did not reach step {}", names(unsealed_), ordered.at));
      return wait(fmt::format("{}: {} to seal after step {}", ordered.reason, names(unsealed_),
                              ordered.at));
    }
    if (!unsealed_.empty() && since < options_.seal_timeout)
      return wait(fmt::format("{}: {} to seal", ordered.reason, names(unsealed_)));
    return form(ordered.reason);
  }

 private:
  const Pulse* pulse_of(std::int32_t worker) const {
    const auto found = view_.heard.find(worker);
    return found == view_.heard.end() ? nullptr : &found->second.pulse;
  }
  bool fresh(const Heard& heard) const {
    return now_ - std::max(heard.at, view_.started) <= options_.heartbeat_timeout;
  }
  bool expelled(std::int32_t worker) const { return view_.expelled.contains(worker); }
  bool lags(const Pulse& pulse) const { return pulse.held.step - pulse.applied > options_.max_lag; }
  bool has_commit(const Pulse& pulse) const {
    return pulse.has_commit && pulse.told == row_.commit;
  }
  std::int64_t head() const {
    std::int64_t step = row_.term->start.step;
    for (const Pulse* pulse : members_) step = std::max(step, pulse->held.step);
    return step;
  }

  static Decision wait(std::string reason) {
    Decision decision;
    decision.kind = Decision::Kind::wait;
    decision.reason = std::move(reason);
    return decision;
  }
  static Decision seal(std::int64_t at, std::string reason) {
    Decision decision;
    decision.kind = Decision::Kind::seal;
    decision.seal_at = at;
    decision.reason = std::move(reason);
    return decision;
  }

  // Who may know more than the row. What a worker said is believed while it is there, and for
  // cold_wait after: that long everything waits for somebody who is away.
  std::vector<const Pulse*> witnesses() const {
    std::vector<const Pulse*> all;
    for (const auto* pulses : {&view_.heard, &view_.ahead})
      for (const auto& [worker, heard] : *pulses)
        if (options_.recover ||
            (!expelled(worker) && now_ - std::max(heard.at, view_.started) <=
                                      options_.heartbeat_timeout + options_.cold_wait))
          all.push_back(&heard.pulse);
    return all;
  }

  // C5: a store that was lost or restored. A worker's term is proof that a later row was durable.
  std::optional<Decision> row_behind() const {
    const std::int64_t mine = row_.term ? row_.term->term : 0;
    std::int64_t seen = mine;
    std::int32_t who = -1;
    const std::vector<const Pulse*> pulses = witnesses();
    for (const Pulse* pulse : pulses) {
      const std::int64_t term = std::max(pulse->term, pulse->held_term);
      if (term <= seen) continue;
      seen = term;
      who = pulse->identity.worker;
    }
    bool told_more = false;
    for (const Pulse* pulse : pulses) {
      if (seen != mine || pulse->told.step <= row_.commit.step) continue;
      told_more = true;
      if (!options_.recover)
        return wait(fmt::format(
            "the row ends with commit {}, worker {} was told of commit {}: the store is older than "
            "the run (restore it, or start the coordinator with --recover)",
            row_.commit.step, pulse->identity.worker, pulse->told.step));
    }
    if (seen == mine && !told_more) return std::nullopt;
    if (!options_.recover)
      return wait(fmt::format(
          "the row ends with term {}, worker {} knows of term {}: the store is older than the run "
          "(restore it, or start the coordinator with --recover)",
          mine, who, seen));
    return recover(seen);
  }

  // --recover: everybody seals, then the best of the histories that have the latest commit that
  // anybody was told.
  Decision recover(std::int64_t seen) const {
    Position commit = row_.commit;
    std::vector<std::int32_t> unsealed;
    for (const auto& [worker, heard] : view_.heard) {
      if (!fresh(heard)) continue;
      if (heard.pulse.told.step > commit.step) commit = heard.pulse.told;
      if (heard.pulse.state == WorkerState::voting) unsealed.push_back(worker);
    }
    if (!unsealed.empty())
      return wait(fmt::format("recovering after term {}: {} to seal", seen, names(unsealed)));
    if (now_ - view_.started < options_.cold_wait)
      return wait(fmt::format("recovering after term {}: other workers may come", seen));
    std::vector<Candidate> all;
    for (const auto& [worker, heard] : view_.heard) {
      const Pulse& pulse = heard.pulse;
      if (!fresh(heard) || pulse.leaving || expelled(worker)) continue;
      if (pulse.has_commit && pulse.told == commit) all.push_back({&pulse, false});
    }
    if (static_cast<std::int32_t>(all.size()) < std::max(1, options_.min_workers))
      return wait(fmt::format("recovering after term {}: {} of {} workers with step {} are here",
                              seen, all.size(), options_.min_workers, commit.step));
    Decision decision = begin(seen + 1, all, fmt::format("recovered after term {}", seen));
    decision.commit = commit;
    return decision;
  }

  // Whoever comes back finds the run's checkpoint.
  Decision ended() const {
    Decision decision;
    decision.commit = row_.commit;
    decision.reason = fmt::format("the run has ended: step {} of {} is committed, and published",
                                  row_.commit.step, row_.steps);
    return decision;
  }

  Decision first() const {
    std::vector<Candidate> all;
    for (const auto& [worker, heard] : view_.heard)
      if (fresh(heard) && heard.pulse.state == WorkerState::joining && !heard.pulse.leaving &&
          !expelled(worker) && (options_.mutations.cold_without_commit || has_commit(heard.pulse)))
        all.push_back({&heard.pulse, false});
    // Who was sent away before the run began is not waited for: it does not come by itself.
    const auto away = static_cast<std::int32_t>(view_.sent_away.size());
    const auto needed = std::max({1, options_.min_workers, options_.start_workers - away});
    if (static_cast<std::int32_t>(all.size()) < needed)
      return wait(fmt::format("{} of {} workers have joined", all.size(), needed));
    return begin(1, all, fmt::format("{} workers have joined", all.size()));
  }

  std::string urgent_reason() const {
    if (!gone_.empty()) return fmt::format("{} fell silent or restarted", names(gone_));
    for (const Pulse* pulse : members_)
      if (!pulse->suspects.empty())
        return fmt::format("worker {} suspects worker {}: {}", pulse->identity.worker,
                           pulse->suspects.front().worker, pulse->suspects.front().reason);
    for (const Pulse* pulse : members_) {
      const auto worker = pulse->identity.worker;
      if (expelled(worker))
        return fmt::format("worker {} is expelled: {}", worker, view_.expelled.at(worker));
      if (lags(*pulse))
        return fmt::format("worker {} is {} steps behind in applying", worker,
                           pulse->held.step - pulse->applied);
      const bool as_planned =
          view_.seal && view_.seal->at > 0 && pulse->held.step >= view_.seal->at;
      if (pulse->state == WorkerState::sealed && !as_planned &&
          !(view_.seal && view_.seal->at == 0))
        return fmt::format("worker {} is sealed", worker);
    }
    return {};
  }

  std::string planned_reason() const {
    for (const Pulse* pulse : members_)
      if (pulse->leaving) return fmt::format("worker {} leaves", pulse->identity.worker);
    for (const auto& [worker, heard] : view_.heard)
      if (ready(heard)) return fmt::format("worker {} joins", worker);
    return {};
  }

  // R8, C2: what it holds was vouched for in this term, so it is a prefix of the next start.
  bool ready(const Heard& heard) const {
    const Pulse& pulse = heard.pulse;
    const TermWorker* listed = row_.term->find(pulse.identity.worker);
    return fresh(heard) && pulse.state == WorkerState::joining && pulse.ready && !pulse.leaving &&
           pulse.term == row_.term->term && !expelled(pulse.identity.worker) &&
           (listed == nullptr || listed->identity != pulse.identity);
  }

  Position least_durable() const {
    if (members_.empty() || members_.size() != row_.term->workers.size()) {
      if (!options_.mutations.commit_one_disk || members_.empty()) return row_.commit;
    }
    std::optional<Position> least;
    for (const Pulse* pulse : members_) {
      if (!pulse->has_start && !options_.mutations.commit_before_start) return row_.commit;
      const bool takes =
          !least || (options_.mutations.commit_one_disk ? pulse->durable.step > least->step
                                                        : pulse->durable.step < least->step);
      if (takes) least = pulse->durable;
    }
    return least->step > row_.commit.step ? *least : row_.commit;
  }

  Decision steady() const {
    Decision decision;
    decision.commit = least_durable();
    decision.reason = absent_.empty() ? "" : fmt::format("{} to hear of the term", names(absent_));
    return decision;
  }

  // C4. Removes who has to go; true if suspicions were among the reasons for the change.
  bool prune(std::vector<Candidate>& stayers, std::size_t joiners) const {
    std::erase_if(stayers, [&](const Candidate& c) {
      return c.pulse->leaving || expelled(c.pulse->identity.worker) || lags(*c.pulse);
    });
    bool suspicions = false;
    std::vector<Candidate> left = stayers;
    while (true) {
      std::map<std::int32_t, int> accused;
      for (const Candidate& c : left)
        for (const Suspicion& s : c.pulse->suspects)
          if (std::ranges::any_of(
                  left, [&](const Candidate& o) { return o.pulse->identity.worker == s.worker; }))
            ++accused[s.worker];
      if (accused.empty()) break;
      suspicions = true;
      const auto worst = std::ranges::max_element(left, {}, [&](const Candidate& c) {
        const auto& id = c.pulse->identity;
        const auto found = accused.find(id.worker);
        return std::tuple(found == accused.end() ? 0 : found->second, id.incarnation, id.worker);
      });
      left.erase(worst);
    }
    const bool first_time =
        !view_.last_pardoned || now_ - *view_.last_pardoned > options_.suspicion_window;
    // Sending somebody away must not stop the run: then another try with all of them is better.
    const bool enough =
        left.size() + joiners >= static_cast<std::size_t>(options_.min_workers) && !left.empty();
    if (suspicions && !first_time && enough) stayers = left;
    return suspicions;
  }

  Decision form(const std::string& reason) const {
    std::vector<Candidate> stayers;
    for (const Pulse* pulse : members_)
      if (pulse->state == WorkerState::sealed) stayers.push_back({pulse, true});
    const bool all_leave =
        !stayers.empty() && gone_.empty() && unsealed_.empty() &&
        std::ranges::all_of(stayers, [](const Candidate& c) { return c.pulse->leaving; });
    std::vector<Candidate> joiners;
    for (const auto& [worker, heard] : view_.heard)
      if (ready(heard)) joiners.push_back({&heard.pulse, false});
    const bool suspicions = prune(stayers, joiners.size());
    for (const Candidate& c : stayers)
      if (c.pulse->told != row_.commit)
        return wait(fmt::format("{}: worker {} to hear of commit {}", reason,
                                c.pulse->identity.worker, row_.commit.step));
    const bool committed =
        std::ranges::any_of(stayers, [&](const Candidate& c) { return has_commit(*c.pulse); });
    if (!committed ||
        stayers.size() + joiners.size() < static_cast<std::size_t>(options_.min_workers)) {
      Decision decision = cold(reason, stayers);
      if (all_leave && decision.kind == Decision::Kind::wait) decision.commit = least_durable();
      return decision;
    }
    std::vector<Candidate> all = stayers;
    all.insert(all.end(), joiners.begin(), joiners.end());
    Decision decision = begin(row_.term->term + 1, all, reason);
    decision.suspicions = suspicions;
    return decision;
  }

  // C3: too few of the term are left, or none that has the commit.
  Decision cold(const std::string& reason, const std::vector<Candidate>& stayers) const {
    if (!unsealed_.empty()) return wait(fmt::format("{}: {} to seal", reason, names(unsealed_)));
    std::vector<std::int32_t> missing;
    for (const TermWorker& worker : row_.term->workers) {
      const auto found = view_.heard.find(worker.identity.worker);
      if (is_away_for_good(worker)) continue;
      // One that is cut off may still vote: nothing begins without it before cold_wait.
      if (found == view_.heard.end() || !fresh(found->second) ||
          (found->second.pulse.identity == worker.identity &&
           is_cut_off(now_, worker, row_, view_, options_)))
        missing.push_back(worker.identity.worker);
    }
    if (!missing.empty() && now_ - view_.seal->since < options_.cold_wait)
      return wait(fmt::format("{}: {} to come back", reason, names(missing)));
    std::vector<Candidate> all = stayers;
    bool committed =
        std::ranges::any_of(stayers, [&](const Candidate& c) { return has_commit(*c.pulse); });
    std::vector<std::int32_t> without;
    for (const auto& [worker, heard] : view_.heard) {
      const Pulse& pulse = heard.pulse;
      if (!fresh(heard) || pulse.state != WorkerState::joining || pulse.leaving || expelled(worker))
        continue;
      if (has_commit(pulse) || options_.without_commit || options_.mutations.cold_without_commit) {
        all.push_back({&pulse, false});
        committed = true;
      } else {
        without.push_back(worker);
      }
    }
    if (!committed)
      return wait(fmt::format(
          "{}: a worker that has the committed step {}{}{}{}", reason, row_.commit.step,
          without.empty() ? "" : fmt::format("; {} lack it", names(without)),
          missing.empty() ? "" : fmt::format("; {} are away", names(missing)), who_is_away()));
    if (all.size() < static_cast<std::size_t>(std::max(1, options_.min_workers)))
      return wait(fmt::format("{}: {} of {} workers that have step {} are here{}", reason,
                              all.size(), options_.min_workers, row_.commit.step, who_is_away()));
    return begin(row_.term->term + 1, all, fmt::format("{} (cold)", reason));
  }

  // It was sent away, and has promised to hold nothing more of this term.
  bool is_away_for_good(const TermWorker& worker) const {
    const Pulse* pulse = pulse_of(worker.identity.worker);
    return view_.sent_away.contains(worker.identity.worker) && pulse != nullptr &&
           pulse->identity == worker.identity && pulse->state == WorkerState::sealed &&
           pulse->term == row_.term->term;
  }
  std::string who_is_away() const {
    std::string text;
    for (const std::int32_t worker : view_.sent_away)
      text += fmt::format("; worker {} was sent away: {}", worker, view_.expelled.at(worker));
    return text;
  }

  Decision begin(std::int64_t term, std::vector<Candidate> all, std::string reason) const {
    std::ranges::sort(all, {}, [](const Candidate& c) { return c.pulse->identity.worker; });
    Decision decision;
    decision.kind = Decision::Kind::term;
    decision.reason = std::move(reason);
    decision.commit = row_.commit;
    TermRecord record;
    record.term = term;
    record.copies = options_.copies;
    record.quorum = options_.quorum;
    const bool anybody =
        options_.without_commit || options_.recover || options_.mutations.cold_without_commit;
    const Pulse* best = nullptr;
    const bool stayers_give = std::ranges::any_of(
        all, [&](const Candidate& c) { return c.stays && has_commit(*c.pulse); });
    const bool warm = stayers_give && is_warm(all);
    for (const Candidate& c : all) {
      if (warm && !c.stays) continue;  // a joiner's is a prefix of theirs
      if (!anybody && !has_commit(*c.pulse)) continue;
      if (best == nullptr || better(*best, *c.pulse)) best = c.pulse;
    }
    require(best != nullptr, "a term without a start: {}", decision.reason);
    record.start = best->held;
    std::vector<SampleRange> taken;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Pulse& pulse = *all[i].pulse;
      const auto voter = static_cast<std::int32_t>(i);
      record.workers.push_back({pulse.identity, pulse.address, voter});
      if (pulse.held == record.start) record.sources.push_back(pulse.identity.worker);
      if (!pulse.pending || pulse.pending->base != record.start) continue;
      // Two workers of two terms may have drawn the same range on the same base: one keeps it.
      const SampleRange& range = pulse.pending->samples;
      const bool free = std::ranges::none_of(
          taken, [&](const SampleRange& t) { return t.begin < range.end && range.begin < t.end; });
      if (!free) continue;
      taken.push_back(range);
      record.kept.push_back({voter, range});
    }
    decision.record = std::move(record);
    return decision;
  }

  bool better(const Pulse& than, const Pulse& pulse) const {
    if (options_.mutations.least_start) return before(pulse, than);
    if (options_.mutations.longest_start) return than.held.step < pulse.held.step;
    return before(than, pulse);
  }

  // Whether every joiner of the term-to-be was vouched for in the row's term.
  bool is_warm(const std::vector<Candidate>& all) const {
    return row_.term && std::ranges::all_of(all, [&](const Candidate& c) {
             return c.stays || (c.pulse->ready && c.pulse->term == row_.term->term);
           });
  }

  TimePoint now_;
  const Row& row_;
  const View& view_;
  const MembershipOptions& options_;
  std::vector<std::int32_t> gone_;      // of the term: silent, or restarted
  std::vector<std::int32_t> live_;      // of the term
  std::vector<std::int32_t> absent_;    // live, and no pulse of this term yet
  std::vector<std::int32_t> unsealed_;  // live, and no sealed pulse of this term yet
  std::vector<const Pulse*> members_;   // live, pulses of this term
};

}  // namespace

const char* to_string(Decision::Kind kind) {
  switch (kind) {
    case Decision::Kind::steady:
      return "steady";
    case Decision::Kind::seal:
      return "seal";
    case Decision::Kind::wait:
      return "wait";
    case Decision::Kind::term:
      return "term";
  }
  return "?";
}

bool is_live(TimePoint now, const TermWorker& worker, const Row& row, const View& view,
             const MembershipOptions& options) {
  const auto found = view.heard.find(worker.identity.worker);
  if (found == view.heard.end()) return now - view.started <= options.heartbeat_timeout;
  if (found->second.pulse.identity.incarnation > worker.identity.incarnation) return false;
  return now - std::max(found->second.at, view.started) <= options.heartbeat_timeout &&
         !is_cut_off(now, worker, row, view, options);
}

bool is_cut_off(TimePoint now, const TermWorker& worker, const Row& row, const View& view,
                const MembershipOptions& options) {
  const auto broken = view.broken.find(worker.identity.worker);
  if (broken == view.broken.end() || broken->second.identity != worker.identity) return false;
  const Duration since = now - std::max(broken->second.since, view.started);
  if (since < options.stream_grace) return false;
  const bool is_long = since >= kLongBreak * options.stream_grace;
  if (is_long && view.seal && view.seal->at == 0) return true;
  return std::ranges::any_of(row.term->workers, [&](const TermWorker& other) {
    const auto heard = view.heard.find(other.identity.worker);
    if (heard == view.heard.end()) return false;
    const Pulse& pulse = heard->second.pulse;
    return pulse.identity == other.identity && pulse.state == WorkerState::sealed &&
           pulse.term == row.term->term &&
           (is_long || std::ranges::any_of(pulse.suspects, [&](const Suspicion& suspicion) {
              return suspicion.worker == worker.identity.worker;
            }));
  });
}

bool has_ended(const Row& row) {
  return row.steps > 0 && row.commit.step >= row.steps && !row.checkpoints.empty() &&
         row.checkpoints.back().position.step >= row.steps;
}

Decision next(TimePoint now, const Row& row, const View& view, const MembershipOptions& options) {
  return Rule(now, row, view, options).decide();
}

}  // namespace ballot
