// One invariant after the other; what is recorded for them stands beside.
#include "tests/simulation/checker.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace ballot::sim {
namespace {

template <class... Args>
void expect(bool holds, const char* invariant, fmt::format_string<Args...> what, Args&&... args) {
  if (!holds) [[unlikely]]
    throw Violation(invariant, fmt::format(what, std::forward<Args>(args)...));
}

std::string name(const Position& p) {
  return fmt::format("{}/{:04x}", p.step, p.digest.low & 0xffff);
}

bool overlap(const SampleRange& a, const SampleRange& b) {
  return a.begin < b.end && b.begin < a.end;
}

void add(std::vector<SampleRange>& used, const SampleRange& range) {
  auto at = std::ranges::lower_bound(used, range);
  at = used.insert(at, range);
  if (at != used.begin() && std::prev(at)->end == at->begin) {
    std::prev(at)->end = at->end;
    at = std::prev(used.erase(at));
  }
  if (std::next(at) != used.end() && at->end == std::next(at)->begin) {
    at->end = std::next(at)->end;
    used.erase(std::next(at));
  }
}

Ledger ledger_of(const std::vector<SampleRange>& used) {
  Ledger ledger;
  for (const SampleRange& u : used) {
    if (u.begin > ledger.next) ledger.unused.push_back({ledger.next, u.begin});
    ledger.next = u.end;
  }
  return ledger;
}

}  // namespace

Checker::Checker(const Position& genesis, std::int64_t per_voter)
    : genesis_(genesis), per_voter_(per_voter) {
  nodes_[genesis.digest] = Node{};
}

const Checker::Node& Checker::node(const Position& position) const {
  const auto found = nodes_.find(position.digest);
  expect(found != nodes_.end(), "I1", "nobody ever held {}", name(position));
  return found->second;
}

bool Checker::is_prefix(const Position& a, const Position& b) const {
  if (a == Position{} || a == b) return true;
  Position at = b;
  while (at.step > a.step) at = node(at).previous;
  return at == a;
}

std::int64_t Checker::unused_samples(const Position& position) const {
  std::int64_t count = 0;
  for (const SampleRange& r : ledger_of(node(position).used).unused) count += r.count();
  return count;
}

void Checker::delivered(int worker, const void* data, const Hello& hello) {
  delivered_.insert_or_assign(std::pair(worker, data), hello);
}

// I7: whatever is used came over a stream of this term, from a worker of it.
void Checker::used(const WorkerCore& core, const void* data, std::int32_t sender,
                   const char* what) const {
  const auto me = core.identity()->worker;
  const auto found = delivered_.find({me, data});
  expect(found != delivered_.end(), "I7", "worker {} uses a {} that never came", me, what);
  const Hello& hello = found->second;
  const TermWorker* listed = core.record()->find(sender);
  expect(hello.term == core.term() && listed != nullptr && hello.identity == listed->identity, "I7",
         "worker {} in term {} uses a {} of worker {}, incarnation {}, that came in term {}", me,
         core.term(), what, hello.identity.worker, hello.identity.incarnation, hello.term);
}

void Checker::computes(const WorkerCore& core) {
  expect(core.state() != WorkerState::joining, "I14", "a joining worker computes a ballot");
}

void Checker::decided(const WorkerCore& core, const DecideChunk& decision,
                      const std::vector<std::shared_ptr<const ToyBallot>>& ballots,
                      const ChunkVerdict& verdict) {
  expect(core.state() != WorkerState::joining, "I14", "a joining worker decides a chunk");
  const TermRecord& record = *core.record();
  Decided facts;
  facts.owner = *core.identity();
  facts.digest = verdict.verdict.digest;
  for (std::size_t i = 0; i < ballots.size(); ++i) {
    const PolledBallot& polled = decision.ballots[i];
    const auto voter = static_cast<std::size_t>(polled.voter);
    if (facts.counted.size() <= voter / 64) facts.counted.resize(voter / 64 + 1);
    facts.counted[voter / 64] |= std::uint64_t{1} << voter % 64;
    const ToyBallot& b = *ballots[i];
    facts.ballots.push_back({polled.voter, b.worker, b.base, b.samples});
    const TermWorker* caster = record.find(b.worker);
    expect(caster != nullptr && caster->voter == polled.voter, "I14",
           "worker {} is in the poll of step {} of term {} as voter {}", b.worker, decision.step,
           record.term, polled.voter);
    if (b.worker == facts.owner.worker) continue;
    used(core, &b, b.worker, "ballot");
  }
  const auto [at, fresh] =
      decided_.try_emplace({decision.term, decision.step, decision.chunk}, facts);
  expect(fresh || (at->second.digest == facts.digest && at->second.counted == facts.counted), "I1",
         "chunk {} of step {} was decided twice in term {}", decision.chunk, decision.step,
         decision.term);
}

void Checker::holds(const WorkerCore& core, const HoldRecord& hold) {
  const Record& record = *hold.record;
  const Position& position = hold.position;
  const std::int32_t me = core.identity() ? core.identity()->worker : -1;
  const auto [same, fresh] = by_term_step_.try_emplace({record.term, record.step}, position);
  expect(same->second == position, "I1", "worker {} holds {} of term {}, another held {}", me,
         name(position), record.term, name(same->second));
  Position previous{record.step - 1, record.previous};
  const Node& before = node(previous);
  if (hold.fetched) {
    node(position);  // known
    return;
  }
  Node after{previous, record.term, before.used};
  std::map<std::int32_t, SampleRange> counted;
  for (std::size_t c = 0; c < record.chunks.size(); ++c) {
    const auto found = decided_.find({record.term, record.step, static_cast<std::int32_t>(c)});
    expect(found != decided_.end(), "I1", "worker {} holds step {} of term {} without chunk {}", me,
           record.step, record.term, c);
    const Decided& facts = found->second;
    if (facts.owner.worker != me && !record.chunks[c].bits.empty())
      used(core, record.chunks[c].bits.data(), facts.owner.worker, "verdict");
    expect(facts.digest == record.chunks[c].digest && facts.counted == record.chunks[c].counted,
           "I1", "worker {} holds another chunk {} of step {} than term {} decided", me, c,
           record.step, record.term);
    for (const Decided::Counted& b : facts.ballots) {
      expect(b.base == previous, "I10", "step {} counts worker {}'s ballot, cast on {}, not on {}",
             record.step, b.worker, name(b.base), name(previous));
      const auto [entry, first] = counted.try_emplace(b.voter, b.samples);
      expect(entry->second == b.samples, "I9", "voter {} has two ballots in step {}", b.voter,
             record.step);
    }
  }
  for (const auto& [voter, samples] : counted) {
    const auto listed = std::ranges::find(record.ranges, voter, &VoterRange::voter);
    expect(listed != record.ranges.end() && listed->samples == samples, "I9",
           "step {} counts voter {} with [{}, {}), its record says otherwise", record.step, voter,
           samples.begin, samples.end);
    for (const SampleRange& u : after.used)
      expect(!overlap(u, samples), "I9", "step {} counts samples [{}, {}) again", record.step,
             samples.begin, samples.end);
    add(after.used, samples);
  }
  if (fresh) nodes_[position.digest] = after;

  // I5: all of the term have held the step before.
  const TermRecord& term = *core.record();
  expect(term.term == record.term, "I7", "worker {} of term {} holds a step of term {}", me,
         term.term, record.term);
  reached_[{term.term, *core.identity()}] = position;
  if (previous.step <= term.start.step) return;
  for (const TermWorker& w : term.workers) {
    const auto reached = reached_.find({term.term, w.identity});
    expect(reached != reached_.end() && is_prefix(previous, reached->second), "I5",
           "worker {} holds step {} of term {}, worker {} has not held step {}", me, record.step,
           term.term, w.identity.worker, previous.step);
  }
  Position& agreed = agreed_[term.term];
  if (previous.step > agreed.step) agreed = previous;
}

void Checker::applied(const Position& position, const Digest& state) {
  if (tainted_) return;
  const auto [at, fresh] = states_.try_emplace(position.digest, state);
  expect(fresh || at->second == state, "I2", "two replicas at {} differ", name(position));
}

bool Checker::is_right(const Position& position, const Digest& state) const {
  const auto known = states_.find(position.digest);
  return known != states_.end() && known->second == state;
}

void Checker::publishes(int worker, const CheckpointFact& fact,
                        const std::optional<Digest>& state) {
  const Position& position = fact.position;
  expect(state.has_value(), "I11", "worker {} publishes {}, which lacks a share", worker,
         name(position));
  expect(is_prefix(position, row_.commit), "I11", "worker {} publishes {}, commit is {}", worker,
         name(position), name(row_.commit));
  const bool right = is_right(position, *state);
  if (!right && fact.shares < 2) tainted_ = true;  // nobody could know
  expect(right || tainted_, "I11", "the checkpoint of {} is not what replaying gives",
         name(position));
  published_.insert(position);
}

void Checker::loads(int worker, const Position& position, const Digest& state) const {
  expect(published_.contains(position), "I11", "worker {} loads {}, which nobody published", worker,
         name(position));
  expect(tainted_ || is_right(position, state), "I11",
         "worker {} loads a checkpoint of {} that is not what replaying gives", worker,
         name(position));
}

void Checker::keeps(int worker, const CheckpointsKept& kept) const {
  expect(published_.contains(kept.newest), "I11", "worker {} is told of {}, which nobody published",
         worker, name(kept.newest));
  if (!kept.older) return;
  expect(kept.older->step <= oldest_kept_, "I12", "worker {} deletes up to {}, {} is kept", worker,
         name(*kept.older), oldest_kept_);
}

void Checker::ends(int worker, std::int64_t steps, const Position& position,
                   const std::optional<Digest>& state) const {
  expect(steps > 0 && position.step >= steps && is_prefix(position, row_.commit), "I15",
         "worker {} ends at {}, its last step is {}, commit is {}", worker, name(position), steps,
         name(row_.commit));
  expect(!row_.checkpoints.empty() && row_.checkpoints.back().position.step >= steps, "I15",
         "worker {} ends before the checkpoint of step {} is published", worker, steps);
  expect(tainted_ || !state || is_right(position, *state), "I15",
         "worker {} ends with other parameters than those of {}", worker, name(position));
}

void Checker::sealed_pulse(int worker, const Pulse& pulse) {
  Seen& seen = seen_[worker];
  if (!seen.promised || seen.promised->first < pulse.term)
    seen.promised = std::pair(pulse.term, pulse.held);
  expect(seen.promised->second == pulse.held, "I7",
         "worker {} promised {} in term {} and now says {}", worker, name(seen.promised->second),
         pulse.term, name(pulse.held));
}

void Checker::worker_died(int worker) {
  seen_[worker] = Seen{};
}

void Checker::worker(int worker, const WorkerCore& core,
                     const std::vector<const WorkerCore*>& all) {
  Seen& seen = seen_[worker];
  const WorkerState state = core.state();
  const Position held = core.held();
  const bool in_term = state != WorkerState::joining;
  const bool was_in_term = seen.alive && seen.state != WorkerState::joining;
  if (seen.alive && seen.state == state && seen.term == core.term() && seen.held == held) return;

  // I3.
  if (in_term && was_in_term)
    expect(is_prefix(seen.held, held), "I3", "worker {} went from {} to {} without leaving", worker,
           name(seen.held), name(held));
  if (in_term && core.term() != seen.term) {
    const Position& start = core.record()->start;
    const bool prefix = is_prefix(held, start);
    expect(prefix || !was_in_term || !seen.proven, "I3",
           "worker {} enters term {} at {}, it starts at {}", worker, core.term(), name(held),
           name(start));
    expect(prefix || state == WorkerState::sealed || !core.has_start(), "I3",
           "worker {} votes in term {} at {}, which starts at {}", worker, core.term(), name(held),
           name(start));
    seen.proven = prefix;
  }
  if (in_term && core.has_start()) seen.proven = true;
  // I7.
  if (seen.promised && core.term() == seen.promised->first && in_term)
    expect(held == seen.promised->second, "I7", "worker {} sealed term {} at {} and holds {}",
           worker, core.term(), name(seen.promised->second), name(held));
  // I9: the worker's ledger is what truly was not used.
  if (seen.held != held || !seen.alive) {
    const Ledger truth = ledger_of(node(held).used);
    expect(core.ledger() == truth, "I9", "worker {} at {}: next sample {}, {} gaps; truly {}, {}",
           worker, name(held), core.ledger().next, core.ledger().unused.size(), truth.next,
           truth.unused.size());
  }
  if (in_term && core.has_start()) {
    Position& reached = reached_[{core.term(), *core.identity()}];
    expect(reached == Position{} || is_prefix(reached, held), "I3",
           "worker {} held {} in term {} and now {}", worker, name(reached), core.term(),
           name(held));
    if (held.step > reached.step) reached = held;
  }
  // I4.
  if (in_term && row_.term && core.term() == row_.term->term && core.has_start())
    for (const WorkerCore* other : all) {
      if (other == &core || other->state() == WorkerState::joining ||
          other->term() != core.term() || !other->has_start())
        continue;
      const Position theirs = other->held();
      const auto [less, more] = std::minmax(
          held, theirs, [](const Position& a, const Position& b) { return a.step < b.step; });
      expect(more.step - less.step <= 1 && is_prefix(less, more), "I4",
             "in term {} one worker holds {}, another {}", core.term(), name(less), name(more));
    }
  seen.alive = true;
  seen.state = state;
  seen.term = core.term();
  seen.held = held;
}

void Checker::durable(int worker, const Position& position) {
  disks_[worker] = position;
}

void Checker::restarted(int worker, const Position& journal_end) {
  const auto disk = disks_.find(worker);
  if (disk != disks_.end())
    expect(is_prefix(disk->second, journal_end), "I6",
           "worker {} had {} on its disk and starts with {}", worker, name(disk->second),
           name(journal_end));
  disks_[worker] = journal_end;
}

void Checker::cut(int worker, const Position& to, const Position& end) {
  // I12: of the records cut away the first one must not be a committed one.
  const bool cuts_commit =
      end.step > to.step && row_.commit.step > to.step && is_prefix(to, row_.commit) && [&] {
        Position first = end;
        while (first.step > to.step + 1) first = node(first).previous;
        return is_prefix(first, row_.commit);
      }();
  expect(!cuts_commit, "I12", "worker {} cuts its journal after {}, {} is committed", worker,
         name(to), name(row_.commit));
  disks_[worker] = to;
}

bool Checker::may_lose_disk(int worker) const {
  const auto mine = disks_.find(worker);  // its durable steps may be in a row that is on its way
  return std::ranges::any_of(disks_, [&](const auto& disk) {
    return disk.first != worker && has_commit(disk.first) &&
           (mine == disks_.end() || is_prefix(mine->second, disk.second));
  });
}

bool Checker::has_commit(int worker) const {
  const auto disk = disks_.find(worker);
  return disk != disks_.end() && is_prefix(row_.commit, disk->second);
}

void Checker::disk_lost(int worker) {
  disks_.erase(worker);
  lost_disks_.insert(worker);
}

void Checker::row_lost(const Row& older) {
  lost_commit_ = row_.commit;
  row_ = older;
}

void Checker::row(const Row& before, const Row& after) {
  const std::int64_t old_term = before.term ? before.term->term : 0;
  const std::int64_t new_term = after.term ? after.term->term : 0;
  expect(new_term >= old_term, "I8", "the row goes from term {} to {}", old_term, new_term);
  expect(after.commit.step >= before.commit.step, "I8", "commit goes from {} to {}",
         name(before.commit), name(after.commit));
  expect(is_prefix(before.commit, after.commit), "I6", "commit {} is followed by {}",
         name(before.commit), name(after.commit));
  if (after.term) {
    const auto [known, fresh] = terms_.try_emplace(new_term, *after.term);
    expect(known->second == *after.term, "I8", "there are two records of term {}", new_term);
    if (fresh) {
      const Position& start = after.term->start;
      expect(is_prefix(after.commit, start), "I6", "term {} starts at {}, {} is committed",
             new_term, name(start), name(after.commit));
      if (lost_commit_)
        expect(is_prefix(*lost_commit_, start), "I6", "term {} starts at {}, {} was committed",
               new_term, name(start), name(*lost_commit_));
      lost_commit_.reset();
      for (const TermWorker& w : after.term->workers) {
        const auto seen = seen_.find(w.identity.worker);
        if (seen == seen_.end() || !seen->second.proven || !seen->second.promised) continue;
        const auto& [term, held] = *seen->second.promised;
        const TermWorker* old = before.term ? before.term->find(w.identity.worker) : nullptr;
        if (term == old_term && old != nullptr && old->identity == w.identity)
          expect(is_prefix(held, start), "I3", "worker {} stays at {}, term {} starts at {}",
                 w.identity.worker, name(held), new_term, name(start));
      }
      const auto agreed = agreed_.find(old_term);
      const bool reported =
          before.term && std::ranges::any_of(after.term->workers, [&](const TermWorker& w) {
            const TermWorker* old = before.term->find(w.identity.worker);
            return old != nullptr && old->identity == w.identity;
          });
      if (reported && agreed != agreed_.end())
        expect(is_prefix(agreed->second, start), "I5", "term {} agreed on {}, term {} starts at {}",
               old_term, name(agreed->second), new_term, name(start));
    }
  }
  // I11: the row names published checkpoints of committed steps, and moves only forward.
  const auto newest = [](const Row& row) {
    return row.checkpoints.empty() ? -1 : row.checkpoints.back().position.step;
  };
  expect(newest(after) >= newest(before) && after.checkpoints.size() <= 2, "I11",
         "the row goes from checkpoint {} to {}", newest(before), newest(after));
  for (const CheckpointFact& fact : after.checkpoints) {
    expect(published_.contains(fact.position), "I11", "the row names {}, which nobody published",
           name(fact.position));
    expect(is_prefix(fact.position, after.commit), "I11", "the row names {}, commit is {}",
           name(fact.position), name(after.commit));
  }
  if (after.checkpoints.size() == 2)
    oldest_kept_ = std::max(oldest_kept_, after.checkpoints.front().position.step);
  if (after.commit != before.commit) {
    expect(after.term.has_value(), "I6", "a commit without a term");
    for (const TermWorker& w : after.term->workers) {
      const auto disk = disks_.find(w.identity.worker);
      // A disk that was lost since its worker's pulse is a fault's doing.
      if (disk == disks_.end() || lost_disks_.contains(w.identity.worker)) continue;
      expect(is_prefix(after.commit, disk->second), "I6",
             "{} is committed, the disk of worker {} ends at {}", name(after.commit),
             w.identity.worker, name(disk->second));
    }
  }
  expect(after.commit.step == 0 || may_lose_disk(-1), "I6", "no disk has the committed {}",
         name(after.commit));
  row_ = after;
}

}  // namespace ballot::sim
