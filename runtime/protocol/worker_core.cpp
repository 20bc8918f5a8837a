// The worker's state machine. Order of the file: terms, seals, steps, polls, records, checkpoints,
// fetches.
#include "runtime/protocol/worker_core.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "core/error.h"

namespace ballot {
namespace {

std::vector<std::uint64_t> mask_of(const std::vector<PolledBallot>& ballots) {
  std::vector<std::uint64_t> mask;
  for (const PolledBallot& b : ballots) {
    const auto voter = static_cast<std::size_t>(b.voter);
    if (mask.size() <= voter / 64) mask.resize(voter / 64 + 1);
    mask[voter / 64] |= std::uint64_t{1} << (voter % 64);
  }
  return mask;
}

std::int32_t voters_of(const TermRecord& record) {
  std::int32_t most = -1;
  for (const TermWorker& w : record.workers) most = std::max(most, w.voter);
  return most + 1;
}

constexpr std::size_t kMostWritten = 8;  // own shares that are not published yet
constexpr int kMostDoublings = 12;       // of the gap in which a joiner is ready
// Digests of parameters are kept at multiples of these.
constexpr std::int64_t kAuditStrides[] = {4, 16, 64, 256, 1024};

void earlier(std::optional<TimePoint>& soonest, const std::optional<TimePoint>& other) {
  if (other && (!soonest || *other < *soonest)) soonest = other;
}

}  // namespace

WorkerCore::WorkerCore(WorkerOptions options, Recovered state)
    : options_(std::move(options)),
      history_(std::move(state.history)),
      ledger_(std::move(state.ledger)),
      durable_(history_.last()),
      applied_(history_.last().step),
      newest_term_(options_.mutations.restart_in_place ? 0 : history_.last_term()) {
  if (state.parameters) note_parameters(held(), *state.parameters);
  ask_to_join();
}

std::vector<Action> WorkerCore::take() {
  return std::exchange(actions_, {});
}

const TermWorker& WorkerCore::me() const {
  const TermWorker* entry = record_ ? record_->find(identity_->worker) : nullptr;
  require(entry != nullptr, "worker {} is not in the term", identity_->worker);
  return *entry;
}

std::int32_t WorkerCore::my_chunk() const {
  return static_cast<std::int32_t>(&me() - record_->workers.data());
}

const Identity& WorkerCore::owner_of(std::int32_t chunk) const {
  return record_->workers[static_cast<std::size_t>(chunk)].identity;
}

bool WorkerCore::accepting() const {
  return state_ == WorkerState::voting ||
         (state_ == WorkerState::sealed && options_.mutations.no_promise);
}

bool WorkerCore::seal_is_due() const {
  return seal_at_ && std::min(*seal_at_, options_.last_step) <= held().step;
}

// --- terms -----------------------------------------------------------------------------------

void WorkerCore::ask_to_join() {
  asks_ = true;
  act(AskToJoin{});
}

void WorkerCore::joined(TimePoint, const Identity& identity) {
  if (!std::exchange(asks_, false)) return;  // an answer that was overtaken
  identity_ = identity;
  sequence_ = 0;
  coordinator_term_ = 0;
  sources_.clear();
  act(PulseNow{});
}

Pulse WorkerCore::pulse(TimePoint) {
  require(identity_.has_value(), "a pulse without an identity");
  Pulse pulse;
  pulse.identity = *identity_;
  pulse.sequence = ++sequence_;
  pulse.state = state_;
  pulse.address = options_.address;
  pulse.term = state_ == WorkerState::joining ? vouched_term_ : term();
  pulse.held = held();
  pulse.held_term = history_.last_term();
  pulse.durable = durable_;
  pulse.applied = applied_;
  if (kept_ && kept_->base == held()) pulse.pending = Pulse::Pending{kept_->base, kept_->samples};
  pulse.told = told_;
  pulse.has_commit = !rewinding_ && history_.contains(told_);
  pulse.has_start = state_ != WorkerState::joining && has_start();
  pulse.ready = ready();
  pulse.leaving = leaving_;
  pulse.suspects = suspects_;
  pulse.stage = stage();
  // Only a worker in a term: its history just grows, so that what it said once stays on it.
  if (state_ != WorkerState::joining)
    for (const CheckpointFact& fact : written_)
      if (history_.contains(fact.position)) pulse.checkpoints.push_back(fact);
  pulse.published = published_;
  pulse.parameters = parameters_;
  pulse.judgement = judgement_;
  pulse.rebuilt = rebuilt_;
  return pulse;
}

// The head moves on while records travel and are synced. So the commit that has to be durable is
// that of the moment in which the records were first all here, and each later try may miss the head
// by twice as much: what is missing still is fetched up to the start, in the term.
bool WorkerCore::ready() const {
  if (state_ != WorkerState::joining || rewinding_ || coordinator_term_ == 0) return false;
  if (vouched_term_ != coordinator_term_ || !caught_up_at_) return false;
  return durable_.step >= *caught_up_at_ && held().step + ready_gap() >= head_ &&
         held().step - applied_ <= options_.ready_backlog;
}

std::int64_t WorkerCore::ready_gap() const {
  return options_.join_gap << std::min(tries_, kMostDoublings);
}

void WorkerCore::not_vouched() {
  vouched_term_ = 0;
  caught_up_at_.reset();
  tries_ = 0;
}

void WorkerCore::look_if_ready() {
  const bool before = std::exchange(was_ready_, ready());
  if (was_ready_ && !before) act(PulseNow{});
}

// The last step is committed and its checkpoint published, on a history that this worker does not
// have: those that had it need not be there any more.
bool WorkerCore::ended_without_me() const {
  return !rewinding_ && !checkpoints_.empty() && checkpoints_.back().step >= options_.last_step &&
         !history_.contains(checkpoints_.back());
}

bool WorkerCore::has_ended() const {
  return held().step >= options_.last_step && applied_ >= options_.last_step &&
         told_.step >= options_.last_step && history_.contains(told_) && !checkpoints_.empty() &&
         checkpoints_.back().step >= options_.last_step;
}

// All workers of a run have the same last step (D28). One that comes from a time at which it was
// another, as the coordinator could not know, is out; but not when it has reached its own.
bool WorkerCore::has_other_length(const Order& order) {
  if (order.steps == 0 || order.steps == options_.last_step ||
      options_.last_step == std::numeric_limits<std::int64_t>::max() ||
      options_.mutations.any_length)
    return false;
  const bool reached = told_.step >= options_.last_step && !checkpoints_.empty() &&
                       checkpoints_.back().step >= options_.last_step;
  if (reached) return false;
  if (other_length_ != order.steps) {
    other_length_ = order.steps;
    act(OtherLength{order.steps});
  }
  return true;
}

void WorkerCore::ordered(TimePoint now, const Order& order) {
  if (!identity_ || order.incarnation != identity_->incarnation) return;
  if (order.rejoin) return go_out();
  if (order.term < std::max(term(), newest_term_)) return;  // of an earlier coordinator
  if (order.commit.step > told_.step) {
    told_ = order.commit;
    if (state_ == WorkerState::sealed) act(PulseNow{});  // the next term waits for it
  }
  take_checkpoints(order.checkpoints);
  if (has_other_length(order)) return;
  // Entered a term that began at the end, whose others had nothing left to do there.
  if (state_ == WorkerState::sealed && ended_without_me()) return go_out();
  if (!order.publish) {
    publishing_.reset();  // somebody else's, or done
  } else if (const Position& asked = order.publish->position; published_ != asked) {
    const bool again = publish_again_ && now >= *publish_again_;
    if (publishing_ != asked || again) {
      publishing_ = asked;
      publish_again_.reset();
      act(PublishCheckpoint{*order.publish});
    }
  }
  if (order.dismissed) {
    act(Left{});
    return;
  }
  if (order.rewind && !rewinding_) {
    rebuild_when_out_ = true;
    return go_out();
  }
  if (order.record && order.record->term > newest_term_) {
    const TermWorker* entry = order.record->find(identity_->worker);
    if (entry != nullptr && entry->identity == *identity_) return enter(now, *order.record);
    if (state_ != WorkerState::joining) {
      newest_term_ = order.record->term;
      return go_out();
    }
  }
  if (state_ == WorkerState::voting && order.seal_at && order.term == term()) {
    seal_at_ = order.seal_at;
    if (seal_is_due())
      return seal(*seal_at_ == 0 ? "ordered" : fmt::format("ordered after step {}", *seal_at_), {});
  }
  if (state_ != WorkerState::joining) return;
  if (ended_without_me() && !options_.mutations.late_comer_waits) {
    rewinding_ = true;
    fetching_.reset();
    fetch_again_.reset();
    probe_.reset();
    not_vouched();
    return act(LoadCheckpoint{});
  }
  sources_ = order.sources;
  head_ = order.head;
  coordinator_term_ = order.term;
  if (fetching_ && std::ranges::none_of(sources_, [&](const Source& source) {
        return source.identity == fetching_->source.identity;
      })) {
    fetching_.reset();  // the coordinator has given up hope of it
    ++next_source_;
  }
  look_if_ready();
  look_for_records(now);
}

void WorkerCore::enter(TimePoint now, const TermRecord& record) {
  newest_term_ = record.term;
  if (rewinding_) return go_out();  // chosen by what it was: not any more
  if (state_ == WorkerState::voting) act(CloseLinks{});
  record_ = record;
  reached_start_ = false;
  state_ = WorkerState::voting;
  suspects_.clear();
  judgement_.accused.clear();  // said anew after a step with these workers
  seal_reason_.clear();
  seal_at_.reset();
  open_.clear();
  cast_ = false;
  if (!options_.mutations.keep_chunks) {
    polls_.clear();
    chunks_.clear();
    decided_.clear();
  }
  probe_.reset();
  fetching_.reset();
  fetch_again_.reset();
  exchange_deadline_.reset();
  sources_.clear();
  for (const std::int32_t worker : record.sources)
    if (const TermWorker* w = record.find(worker); w != nullptr && worker != identity_->worker)
      sources_.push_back({w->identity, w->address, record.start.step});
  next_source_ = static_cast<std::size_t>(identity_->worker);
  failed_sources_ = 0;
  was_ready_ = false;
  reached_start_ = history_.contains(record.start);
  if (has_start() && held() != record.start) {
    // It was joining, and has fetched more since its pulse, or a tail that nobody vouched for: not
    // a part of this term's history.
    rewind_when_out_ = record.start.step;
    return go_out();
  }
  act(OpenLinks{record});
  act(PulseNow{});
  if (has_start()) return begin_step(now);
  exchange_deadline_ = now + options_.exchange_timeout;
  look_for_records(now);
}

void WorkerCore::go_out() {
  if (record_) act(CloseLinks{});
  record_.reset();
  reached_start_ = false;
  identity_.reset();
  state_ = WorkerState::joining;
  suspects_.clear();
  seal_at_.reset();
  if (!options_.mutations.keep_chunks) {
    polls_.clear();
    chunks_.clear();
    decided_.clear();
  }
  open_.clear();
  cast_ = false;
  exchange_deadline_.reset();
  probe_.reset();
  fetching_.reset();
  fetch_again_.reset();
  not_vouched();
  was_ready_ = false;
  judgement_ = {};
  rebuilt_.reset();
  if (leaving_) {
    act(Left{});
    return;
  }
  if (rewinding_) return;  // then it asks
  if (rebuild_when_out_ || rewind_when_out_ || load_when_out_) {
    parameters_.clear();
    kept_.reset();
  }
  const bool rebuild = std::exchange(rebuild_when_out_, false);
  if (load_when_out_) {
    rewinding_ = true;
    act(LoadCheckpoint{*std::exchange(load_when_out_, std::nullopt)});
    return;
  }
  if (rewind_when_out_) {
    const auto to = history_.at(*std::exchange(rewind_when_out_, std::nullopt));
    require(to.has_value(), "a position to go back to that it does not have");
    rewinding_ = true;
    rebuilding_ = rebuild;
    act(Rewind{*to, rebuild});
    return;
  }
  if (rebuild) {
    rewinding_ = rebuilding_ = true;
    act(Rewind{held(), true});
    return;
  }
  ask_to_join();
}

void WorkerCore::leave(TimePoint) {
  leaving_ = true;
  act(identity_ ? Action(PulseNow{}) : Action(Left{}));
}

// --- seals -----------------------------------------------------------------------------------

void WorkerCore::seal(std::string reason, std::vector<Suspicion> suspects) {
  if (state_ != WorkerState::voting) return;
  state_ = WorkerState::sealed;
  seal_reason_ = std::move(reason);
  suspects_ = std::move(suspects);
  seal_at_.reset();
  fetching_.reset();
  fetch_again_.reset();
  exchange_deadline_.reset();
  act(PulseNow{});
  if (options_.mutations.no_promise) return;
  cast_ = false;
  if (!options_.mutations.keep_chunks) {
    polls_.clear();
    chunks_.clear();
    decided_.clear();
  }
  open_.clear();
  act(CloseLinks{});
}

void WorkerCore::peer_lost(TimePoint, const Identity& peer, const std::string& reason) {
  if (state_ != WorkerState::voting) return;
  const TermWorker* entry = record_->find(peer.worker);
  if (entry == nullptr || entry->identity != peer) return;
  seal(fmt::format("worker {} is lost: {}", peer.worker, reason), {{peer.worker, reason}});
}

// Blames those whose part is missing here: first the ballots of its own poll, for owners that lack
// the same ballot are not to blame.
void WorkerCore::give_up_waiting(TimePoint) {
  std::vector<Suspicion> suspects;
  if (!has_start()) {
    for (const Source& source : sources_)
      suspects.push_back({source.identity.worker, "did not hand over the term's start"});
    return seal("the term's start could not be fetched", std::move(suspects));
  }
  const std::int64_t step = held().step + 1;
  if (!decided_.contains(step)) {
    const Poll& poll = polls_[step];
    for (const TermWorker& w : record_->workers)
      if (!poll.ballots.contains(w.voter))
        suspects.push_back({w.identity.worker, fmt::format("no ballot of step {}", step)});
  }
  if (suspects.empty())
    for (std::int32_t c = 0; c < static_cast<std::int32_t>(record_->workers.size()); ++c)
      if (!chunks_[step].contains(c) && owner_of(c) != *identity_)
        suspects.push_back({owner_of(c).worker, fmt::format("no verdict of step {}", step)});
  seal(fmt::format("step {} did not end in time", step), std::move(suspects));
}

// --- steps -----------------------------------------------------------------------------------

std::vector<VoterRange> WorkerCore::draw() const {
  const std::int32_t voters = voters_of(*record_);
  const bool first = held() == record_->start;
  const std::vector<VoterRange> none;
  if (!options_.mutations.bare_counter)
    return assignment(ledger_, voters, options_.per_voter, first ? record_->kept : none);
  Ledger bare{ledger_.next, {}};
  std::vector<VoterRange> drawn = assignment(bare, voters, options_.per_voter, {});
  if (first)
    for (const VoterRange& k : record_->kept) drawn[static_cast<std::size_t>(k.voter)] = k;
  return drawn;
}

void WorkerCore::begin_step(TimePoint now) {
  if (!accepting() || !has_start()) return;
  if (held().step >= options_.last_step && !options_.mutations.vote_past_end) return;
  const VoterRange mine = draw()[static_cast<std::size_t>(me().voter)];
  const bool fits = kept_ && kept_->base == held() && kept_->samples == mine.samples;
  if (!fits && !(options_.mutations.ballot_without_base && kept_ && kept_->ready)) {
    kept_ = Kept{held().step + 1, held(), mine.samples, false};
    act(ComputeBallot{kept_->step, kept_->base, kept_->samples, mine.voter});
  } else if (!fits) {
    kept_->step = held().step + 1;
  }
  if (kept_->ready) cast(now);
  look_at_poll(now);
  try_hold(now);
}

void WorkerCore::ballot_ready(TimePoint now, std::int64_t step, const Position& base,
                              const SampleRange& samples) {
  if (!kept_ || kept_->step != step || kept_->base != base || kept_->samples != samples) return;
  kept_->ready = true;
  if (accepting() && has_start() && base == held()) cast(now);
}

void WorkerCore::cast(TimePoint now) {
  if (state_ == WorkerState::voting) exchange_deadline_ = now + options_.exchange_timeout;
  cast_ = true;
  const TermWorker& mine = me();
  for (std::int32_t c = 0; c < static_cast<std::int32_t>(record_->workers.size()); ++c) {
    const Identity owner = owner_of(c);
    if (owner == *identity_) {
      BallotFrame own{kept_->step, c, mine.voter, kept_->base, kept_->samples, nullptr};
      Poll& poll = polls_[kept_->step];
      if (!poll.deciding) poll.ballots.try_emplace(mine.voter, std::move(own));
    } else if (open_.contains(owner.worker)) {
      send_ballot(owner, c);
    }
  }
  look_at_poll(now);
}

void WorkerCore::send_ballot(const Identity& to, std::int32_t chunk) {
  act(SendBallot{
      to, term(), {kept_->step, chunk, me().voter, kept_->base, kept_->samples, nullptr}});
}

// --- links and frames ------------------------------------------------------------------------

LinkAnswer WorkerCore::answer(const Hello& hello) const {
  if (hello.run != options_.run || hello.term < newest_term_) return LinkAnswer::refuse;
  if (hello.term > newest_term_) return LinkAnswer::not_yet;
  if (!record_ || record_->term != hello.term || !accepting()) return LinkAnswer::refuse;
  const TermWorker* peer = record_->find(hello.identity.worker);
  if (peer == nullptr || peer->identity != hello.identity) return LinkAnswer::refuse;
  return LinkAnswer::accept;
}

bool WorkerCore::fenced(const Hello& from) const {
  if (options_.mutations.accept_any_term)
    return !record_ || !accepting() || record_->find(from.identity.worker) == nullptr;
  return answer(from) != LinkAnswer::accept;
}

void WorkerCore::link_opened(TimePoint, const Identity& peer) {
  if (!accepting()) return;
  const TermWorker* entry = record_->find(peer.worker);
  if (entry == nullptr || entry->identity != peer || peer == *identity_) return;
  open_.insert(peer.worker);
  const auto chunk = static_cast<std::int32_t>(entry - record_->workers.data());
  if (cast_) send_ballot(peer, chunk);
  // It may be a step behind: also the last one's.
  for (const auto& [step, frame] : decided_) act(SendVerdict{peer, term(), frame});
}

// The step after which frames may still be early: a peer that is voting has the start.
std::int64_t WorkerCore::front() const {
  return std::max(held().step, record_->start.step);
}

void WorkerCore::ballot(TimePoint now, const Hello& from, BallotFrame frame) {
  if (fenced(from)) return;
  if (frame.step <= held().step || frame.step > front() + 2) return;
  const TermWorker* sender = record_->find(from.identity.worker);
  if (frame.voter != sender->voter || frame.chunk != my_chunk()) return;
  Poll& poll = polls_[frame.step];
  if (poll.deciding) return;  // after the close
  poll.ballots.try_emplace(frame.voter, std::move(frame));
  look_at_poll(now);
}

// Owner: the poll of the step after the one it holds closes when all ballots are in, or, with a
// quorum, late_grace after it was reached.
void WorkerCore::look_at_poll(TimePoint now) {
  if (!accepting()) return;
  if (options_.mutations.decide_early && has_start()) {
    const auto ahead = polls_.find(held().step + 2);
    if (ahead != polls_.end() && !ahead->second.deciding &&
        ahead->second.ballots.size() + 1 >= record_->workers.size() &&
        !ahead->second.ballots.empty())
      decide(ahead->first, ahead->second, ahead->second.ballots.begin()->second.base);
  }
  const std::int64_t step = held().step + 1;
  const auto found = polls_.find(step);
  if (found == polls_.end() || found->second.deciding || !has_start()) return;
  Poll& poll = found->second;
  if (!options_.mutations.ballot_without_base) {
    const std::vector<VoterRange> drawn = draw();
    std::erase_if(poll.ballots, [&](const auto& entry) {
      const BallotFrame& b = entry.second;
      return b.base != held() || b.samples != drawn[static_cast<std::size_t>(b.voter)].samples;
    });
  }
  const auto in = static_cast<std::int32_t>(poll.ballots.size());
  const std::int32_t voters = voters_of(*record_);
  if (in == voters) return decide(step, poll, held());
  if (record_->quorum <= 0 || in < record_->quorum) return;
  if (!poll.closes) poll.closes = now + options_.late_grace;
  if (now >= *poll.closes) decide(step, poll, held());
}

void WorkerCore::decide(std::int64_t step, Poll& poll, const Position& base) {
  poll.deciding = true;
  poll.closes.reset();
  poll.base = base;
  DecideChunk decision{term(), step, my_chunk(), static_cast<std::int32_t>(record_->workers.size()),
                       base,   {}};
  for (auto& [voter, frame] : poll.ballots)
    decision.ballots.push_back({voter, std::move(frame.data)});
  poll.counted = mask_of(decision.ballots);
  act(std::move(decision));
}

void WorkerCore::decided(TimePoint now, std::int64_t term, std::int64_t step,
                         ChunkVerdict verdict) {
  if (!accepting() || term != this->term() || step <= held().step) return;
  const auto poll = polls_.find(step);
  if (poll == polls_.end() || !poll->second.deciding || decided_.contains(step)) return;
  verdict.verdict.counted = poll->second.counted;
  const std::int32_t mine = my_chunk();
  const auto frame = std::make_shared<const VerdictFrame>(
      VerdictFrame{step, mine, poll->second.base, std::move(verdict)});
  decided_[step] = frame;
  for (const TermWorker& w : record_->workers)
    if (w.identity != *identity_ && open_.contains(w.identity.worker))
      act(SendVerdict{w.identity, term, frame});
  chunks_[step].try_emplace(mine, *frame);
  try_hold(now);
}

void WorkerCore::verdict(TimePoint now, const Hello& from, VerdictFrame frame) {
  if (fenced(from)) return;
  if (frame.step <= held().step || frame.step > front() + 2) return;
  const auto chunks = static_cast<std::int32_t>(record_->workers.size());
  if (frame.chunk < 0 || frame.chunk >= chunks) return;
  if (owner_of(frame.chunk) != from.identity && !options_.mutations.accept_any_term) return;
  chunks_[frame.step].try_emplace(frame.chunk, std::move(frame));
  try_hold(now);
}

// --- records ---------------------------------------------------------------------------------

void WorkerCore::try_hold(TimePoint now) {
  if (!accepting() || !has_start()) return;
  const std::int64_t step = held().step + 1;
  const auto found = chunks_.find(step);
  if (found == chunks_.end()) return;
  std::map<std::int32_t, VerdictFrame>& parts = found->second;
  std::erase_if(parts, [&](const auto& part) { return part.second.base != held(); });
  const auto chunks = static_cast<std::int32_t>(record_->workers.size());
  const bool lacks_one = options_.mutations.missing_chunk && chunks > 2 && parts.contains(0) &&
                         static_cast<std::int32_t>(parts.size()) == chunks - 1;
  if (static_cast<std::int32_t>(parts.size()) < chunks && !lacks_one) return;
  auto record = std::make_shared<Record>();
  record->step = step;
  record->term = term();
  record->previous = held().digest;
  record->ranges = draw();
  std::vector<ChunkFigures> figures(static_cast<std::size_t>(chunks));
  std::int64_t end = 0;
  for (std::int32_t c = 0; c < chunks; ++c) {
    const auto part = parts.find(c);
    if (part == parts.end()) {  // the mutation alone
      record->chunks.emplace_back();
      record->chunks.back().begin = record->chunks.back().end = end;
      continue;
    }
    ChunkVerdict& data = part->second.data;
    if (c == 0) {
      record->factors = std::move(data.factors);
      record->means = std::move(data.means);
    }
    figures[static_cast<std::size_t>(c)] = std::move(data.figures);
    end = data.verdict.end;
    record->chunks.push_back(std::move(data.verdict));
  }
  chunks_.erase(found);
  const Position position = record->position();
  hold(std::move(record), position, false, std::move(figures));
  if (seal_is_due()) return seal(fmt::format("ordered after step {}", *seal_at_), {});
  begin_step(now);
}

void WorkerCore::hold(std::shared_ptr<const Record> record, const Position& position, bool fetched,
                      std::vector<ChunkFigures> figures) {
  if (!options_.mutations.bare_counter) {
    ledger_ = ledger_after(ledger_, *record);
  } else {
    for (const VoterRange& r : record->ranges) ledger_.next = std::max(ledger_.next, r.samples.end);
  }
  history_.append(position, record->term);
  if (record_ && position == record_->start) reached_start_ = true;
  if (kept_ && kept_->step <= position.step && !options_.mutations.ballot_without_base)
    kept_.reset();
  polls_.erase(polls_.begin(), polls_.upper_bound(position.step));
  chunks_.erase(chunks_.begin(), chunks_.upper_bound(position.step));
  decided_.erase(decided_.begin(), decided_.lower_bound(position.step));
  cast_ = false;
  if (state_ == WorkerState::voting && has_start()) exchange_deadline_.reset();
  act(HoldRecord{std::move(record), position, ledger_, fetched, std::move(figures)});
}

void WorkerCore::forget_before(std::int64_t step) {
  require(step <= told_.step && step <= durable_.step, "step {} forgotten at commit {}, durable {}",
          step, told_.step, durable_.step);
  history_.forget_before(step);
}

void WorkerCore::applied(const Position& position) {
  if (history_.contains(position)) applied_ = std::max(applied_, position.step);
  look_if_ready();
}

void WorkerCore::applied(const Position& position, const Digest& parameters) {
  if (rewinding_ || !history_.contains(position)) return;  // of what is thrown away
  applied(position);
  note_parameters(position, parameters);
}

void WorkerCore::judged(VoterJudgement judgement) {
  const bool news = judgement.accused != judgement_.accused;
  judgement_ = std::move(judgement);
  if (news && identity_) act(PulseNow{});
}

void WorkerCore::synced(const Position& position) {
  if (history_.contains(position) && position.step > durable_.step) durable_ = position;
  look_at_checkpoints();
  look_if_ready();
}

void WorkerCore::rewound(TimePoint, Recovered state) {
  require(rewinding_, "it was not asked to go back");
  rewinding_ = false;
  history_ = std::move(state.history);
  ledger_ = std::move(state.ledger);
  durable_ = history_.last();
  applied_ = held().step;
  not_vouched();
  if (kept_ && kept_->base != held()) kept_.reset();
  parameters_.clear();
  if (state.parameters) note_parameters(held(), *state.parameters);
  if (std::exchange(rebuilding_, false)) rebuilt_ = Rebuilt{held(), state.wrong_from};
  look_at_checkpoints();
  if (identity_)
    act(PulseNow{});
  else
    ask_to_join();
}

// --- checkpoints and audits ------------------------------------------------------------------

void WorkerCore::checkpoint_written(TimePoint, CheckpointFact fact) {
  require(fact.shares > 0 && fact.share >= 0 && fact.share < fact.shares,
          "share {} of {} of the checkpoint of step {}", fact.share, fact.shares,
          fact.position.step);
  if (!history_.contains(fact.position)) return;  // it was voted again meanwhile
  if (!checkpoints_.empty() && fact.position.step <= checkpoints_.back().step) return;
  const auto later = std::ranges::find_if(
      written_, [&](const CheckpointFact& w) { return w.position.step >= fact.position.step; });
  if (later != written_.end() && later->position.step == fact.position.step)
    *later = std::move(fact);
  else
    written_.insert(later, std::move(fact));
  if (written_.size() > kMostWritten) written_.erase(written_.begin());
  if (identity_ && state_ != WorkerState::joining) act(PulseNow{});
}

void WorkerCore::checkpoint_published(TimePoint, const Position& position) {
  if (position.step > published_.step) published_ = position;
  if (publishing_ == position) publishing_.reset();
  if (identity_) act(PulseNow{});
}

void WorkerCore::checkpoint_failed(TimePoint now, const Position& position) {
  if (publishing_ == position) publish_again_ = now + options_.publish_pause;
}

// The row's move only forward; an older list is of an older order.
void WorkerCore::take_checkpoints(const std::vector<Position>& checkpoints) {
  if (checkpoints.empty()) return;
  if (!checkpoints_.empty() && checkpoints.back().step <= checkpoints_.back().step) return;
  checkpoints_ = checkpoints;
  std::erase_if(written_, [&](const CheckpointFact& fact) {
    return fact.position.step <= checkpoints_.back().step;
  });
  look_at_checkpoints();
}

// What is deleted must be covered by a checkpoint of this very history.
void WorkerCore::look_at_checkpoints() {
  if (rewinding_ || checkpoints_.empty() || kept_told_ == checkpoints_.back()) return;
  std::optional<Position> older;
  if (checkpoints_.size() > 1)
    older = options_.mutations.cut_behind_newest ? checkpoints_.back() : checkpoints_.front();
  if (older) {
    if (durable_.step < older->step || told_.step < older->step) return;
    if (history_.base().step <= older->step) {  // else it was loaded from a later one
      if (!history_.contains(*older)) return;
      history_.forget_before(older->step);
    }
  }
  kept_told_ = checkpoints_.back();
  act(CheckpointsKept{older, checkpoints_.back()});
}

void WorkerCore::note_parameters(const Position& position, const Digest& parameters) {
  std::erase_if(parameters_, [&](const ParametersAt& p) {
    if (p.position.step >= position.step || !history_.contains(p.position)) return true;
    // Kept: the latest multiple of each stride.
    return std::ranges::none_of(kAuditStrides, [&](std::int64_t stride) {
      return p.position.step == position.step / stride * stride;
    });
  });
  parameters_.push_back({position, parameters});
}

// --- fetches ---------------------------------------------------------------------------------

// Serves what cannot be voted again: committed steps, the start of a term, and, since whoever holds
// s knows that all of the term hold s - 1, all but the last step of its own term.
Serving WorkerCore::serve(const Fetch& fetch) const {
  Serving serving;
  FetchReply& reply = serving.reply;
  reply.from = fetch.from;
  std::int64_t limit = history_.base().step;
  if (rewinding_) limit = -1;
  const auto may = [&](const Position& p) {
    if (!rewinding_ && history_.contains(p)) limit = std::max(limit, p.step);
  };
  may(told_);
  if (fetch.term > 0) may(fetch.start);
  if (state_ != WorkerState::joining && has_start()) {
    may(record_->start);
    if (const auto agreed = history_.at(std::max(record_->start.step, held().step - 1)))
      may(*agreed);
    if (options_.mutations.serve_provisional) may(held());
    reply.term = record_->term;
    reply.start = record_->start;
  }
  if (limit < 0) return serving;
  reply.vouched = *history_.at(limit);
  if (fetch.from.step <= limit && history_.contains(fetch.from) &&
      fetch.from.step >= history_.base().step) {
    if (fetch.from.step < limit) serving.to_step = limit;
    return serving;
  }
  reply.landmarks = history_.landmarks(std::min(limit, fetch.from.step));
  if (reply.landmarks.empty()) reply.landmarks = {history_.base()};  // the oldest it knows
  return serving;
}

void WorkerCore::look_for_records(TimePoint now) {
  if (!identity_ || rewinding_ || fetching_ || sources_.empty()) return;
  if (state_ == WorkerState::sealed) return;
  if (state_ == WorkerState::voting && has_start()) return;
  if (fetch_again_ && now < *fetch_again_) return;
  if (state_ == WorkerState::joining) {
    const bool vouched = coordinator_term_ > 0 && vouched_term_ == coordinator_term_;
    const bool behind = held().step < head_ || !history_.contains(told_);
    if (vouched && !behind) return;
    if (coordinator_term_ == 0 && !behind) return;
  }
  const Source source = sources_[next_source_ % sources_.size()];
  Fetch fetch{probe_.value_or(held()), 0, {}};
  if (record_) {
    fetch.term = record_->term;
    fetch.start = record_->start;
  }
  fetching_ = Fetching{source, fetch, now + options_.fetch_timeout};
  fetch_again_.reset();
  act(SendFetch{source, fetch});
}

void WorkerCore::fetch_failed(TimePoint now, const Identity& source) {
  if (!fetching_ || fetching_->source.identity != source) return;
  fetching_.reset();
  ++next_source_;
  if (++failed_sources_ < sources_.size()) return look_for_records(now);  // the next one, at once
  failed_sources_ = 0;
  fetch_again_ = now + options_.fetch_pause;
}

void WorkerCore::fetched(TimePoint now, const Identity& source, const FetchReply& reply) {
  if (!fetching_ || fetching_->source.identity != source || reply.from != fetching_->fetch.from)
    return;
  fetching_.reset();
  failed_sources_ = 0;
  if (rewinding_ || state_ == WorkerState::sealed) return;
  const bool voting = state_ == WorkerState::voting;

  // Does its history leave ours? Proof is a position of the same step with another digest, or a
  // term that began before a record of ours and did not take it.
  std::optional<Position> common;
  std::int64_t parted = std::numeric_limits<std::int64_t>::max();  // the first step seen to differ
  for (const Position& mark : reply.landmarks) {
    if (const auto mine = history_.at(mark.step); mine && *mine != mark)
      parted = mark.step;
    else if (mine && !common)
      common = mark;
  }
  const bool leaves = parted <= held().step;
  if (leaves && common && common->step + 1 < parted) {
    probe_ = common;  // landmarks have gaps: where exactly?
    return look_for_records(now);
  }
  probe_.reset();
  const bool forgotten =
      !common && !reply.landmarks.empty() && reply.landmarks.back().step > held().step;
  if ((leaves && !common) || forgotten) {
    if (voting) {
      load_when_out_ = Source{source, {}, reply.vouched.step};
      return go_out();
    }
    rewinding_ = true;
    not_vouched();
    return act(LoadCheckpoint{{source, {}, reply.vouched.step}});
  }
  if (leaves) return on_conflict(common->step);
  if (reply.term > 0 && history_.contains(reply.start)) {
    const auto after = history_.term_at(reply.start.step + 1);
    if (after && *after < reply.term) return on_conflict(reply.start.step);
  }
  if (options_.mutations.cut_to_peer && !voting && common && common->step < held().step)
    return on_conflict(common->step);

  const std::int64_t most = voting ? record_->start.step : std::numeric_limits<std::int64_t>::max();
  std::size_t taken = 0;
  for (const auto& record : reply.records) {
    if (record->step > most) break;
    const Position position = record->position();
    if (const auto mine = history_.at(record->step)) {
      if (*mine != position) return on_conflict(record->step - 1);
      probe_ = position;
      continue;
    }
    if (record->step != held().step + 1 || record->previous != held().digest) break;
    hold(record, position, true);
    ++taken;
  }
  if (probe_ && probe_->step >= held().step) probe_.reset();
  const bool caught_up = reply.landmarks.empty() && held().step >= reply.vouched.step;
  if (taken == 0) ++next_source_;  // another one may have more
  if (!voting && caught_up && held() == reply.vouched) {
    vouched_term_ = reply.term;
    if (!caught_up_at_) caught_up_at_ = std::min(told_.step, held().step);
    if (held().step + ready_gap() < head_) ++tries_;
  }
  if (voting && has_start()) {
    exchange_deadline_.reset();
    act(PulseNow{});
    return begin_step(now);
  }
  if (taken == 0 && !probe_) {
    if (!voting && caught_up) return;  // the next order says whether there is more
    fetch_again_ = now + options_.fetch_pause;
  }
  look_if_ready();
  look_for_records(now);
}

void WorkerCore::on_conflict(std::int64_t common_step) {
  if (history_.contains(told_) && common_step < told_.step && !options_.mutations.cut_to_peer) {
    // The other one has left the committed history; it is not ours to follow.
    ++next_source_;
    return;
  }
  if (state_ == WorkerState::voting) {
    rewind_when_out_ = common_step;
    return go_out();
  }
  rewinding_ = true;
  probe_.reset();
  not_vouched();
  act(Rewind{*history_.at(common_step)});
}

// --- time ------------------------------------------------------------------------------------

void WorkerCore::tick(TimePoint now) {
  if (fetching_ && now >= fetching_->deadline)
    fetch_failed(now, Identity(fetching_->source.identity));
  if (fetch_again_ && now >= *fetch_again_) {
    fetch_again_.reset();
    look_for_records(now);
  }
  look_at_poll(now);
  if (state_ == WorkerState::voting && exchange_deadline_ && now >= *exchange_deadline_)
    give_up_waiting(now);
}

std::optional<TimePoint> WorkerCore::next_deadline() const {
  std::optional<TimePoint> soonest;
  if (fetching_) earlier(soonest, fetching_->deadline);
  earlier(soonest, fetch_again_);
  earlier(soonest, exchange_deadline_);
  for (const auto& [step, poll] : polls_)
    if (step == held().step + 1) earlier(soonest, poll.closes);
  return soonest;
}

std::string WorkerCore::stage() const {
  if (rewinding_) return "going back to where histories part";
  if (!identity_) return "asking to join";
  if (state_ == WorkerState::sealed) return fmt::format("sealed: {}", seal_reason_);
  if (fetching_)
    return fmt::format("fetching after step {} from worker {}", held().step,
                       fetching_->source.identity.worker);
  if (state_ == WorkerState::joining) return ready() ? "ready to vote" : "joining";
  if (!has_start()) return fmt::format("behind the start, step {}", record_->start.step);
  if (held().step >= options_.last_step) return "waiting for the checkpoint of the last step";
  if (!kept_ || !kept_->ready)
    return fmt::format("computing the ballot of step {}", held().step + 1);
  return fmt::format("waiting for the verdict of step {}", held().step + 1);
}

}  // namespace ballot
