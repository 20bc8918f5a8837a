// Order of the file: what comes in; the protocol's thread; deciding; computing.
#include "runtime/elastic/elastic_worker.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/matmul.h"
#include "core/parallel.h"
#include "core/version.h"
#include "runtime/checkpoint_publish.h"
#include "runtime/elastic/chunk_decision.h"
#include "runtime/run_checkpoints.h"
#include "runtime/share_check.h"

namespace ballot {
namespace {

constexpr std::size_t kPlacesKept = 16;    // terms
constexpr std::size_t kUpdatesBehind = 8;  // records that wait for their update: fetch no more
constexpr std::uint64_t kMostServed = 64 << 20;  // bytes of records in one reply
constexpr Duration kIdle = std::chrono::milliseconds(100);
// A worker that is to leave and does not vote is missed by nobody's step.
constexpr Duration kLeaveUnasked = std::chrono::seconds(5);

CoordinatorClientOptions client_options(const ElasticOptions& options) {
  CoordinatorClientOptions client;
  client.address = options.coordinator;
  client.run = options.run;
  client.access = options.access;
  client.heartbeat = options.heartbeat;
  return client;
}

WorkerOptions core_options(const RunConfig& config, const ElasticOptions& options,
                           const std::string& address, Duration patience) {
  WorkerOptions core;
  core.run = options.run;
  core.address = address;
  core.per_voter = config.batch * config.micro_batches * config.members;
  core.exchange_timeout = patience;
  core.last_step = config.steps;
  core.late_grace = options.late_grace;
  core.fetch_timeout = options.fetch_timeout;
  return core;
}

// The most that one ballot or verdict of this model can have, for whatever comes announced as more.
std::uint64_t most_frame_bytes(const StepLayout& layout, std::size_t tensors) {
  return static_cast<std::uint64_t>(layout.voted().extent() / 8 * 3 + 2 * layout.mean_bytes()) +
         1024 * tensors + (std::uint64_t{1} << 20);
}

bool same_digests(const ChunkVerdict& verdict) {
  return verdict.verdict.digest == verdict.verdict.body_digest() &&
         std::ranges::all_of(verdict.means, [](const MeanRecord& mean) {
           return mean.digest == mean.body_digest();
         });
}

}  // namespace

ElasticWorker::ElasticWorker(const RunConfig& config, const ElasticOptions& options,
                             const TrainingHooks& hooks, Replica& replica, ElasticJournal& journal,
                             Recovery& recovery, Recovered start)
    : config_(config),
      options_(options),
      hooks_(hooks),
      replica_(replica),
      journal_(journal),
      recovery_(recovery),
      patience_(std::chrono::duration_cast<Duration>(
          std::chrono::duration<double>(config.deadline_seconds))),
      writer_(checkpoint_options(config, patience_)),
      counts_(replica.counts()),
      client_(client_options(options)) {
  replica_.before_change(writer_.hook());
  PeersOptions peers;
  peers.run = options.run;
  peers.listen = options.listen;
  peers.access = options.access;
  peers.link_patience = options.link_patience;
  peers.most_frame_bytes = most_frame_bytes(replica.layout(), counts_.size());
  peers.most_reply_bytes = kMostServed + 4 * peers.most_frame_bytes;
  // The core needs the address, and handlers the core: whoever calls before it is there waits.
  const std::lock_guard lock(mutex_);
  peers_ = make_peers(peers, handlers());
  core_ = std::make_unique<WorkerCore>(core_options(config, options, peers_->address(), patience_),
                                       std::move(start));
}

ElasticWorker::~ElasticWorker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (protocol_.joinable()) protocol_.join();
  if (coordinator_.joinable()) coordinator_.join();
  peers_.reset();  // from here on nobody calls
  decider_.reset();
  publisher_.reset();
  replica_.before_change({});
}

template <class Work>
void ElasticWorker::with_core(const Work& work) {
  {
    const std::lock_guard lock(mutex_);
    work(*core_);
    ++told_;
  }
  changed_.notify_all();
}

void ElasticWorker::fail(std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(error);
  }
  changed_.notify_all();
}

std::optional<ElasticWorker::Place> ElasticWorker::place_in(std::int64_t term) const {
  const std::lock_guard lock(mutex_);
  if (core_->term() != term) return std::nullopt;
  return place_now();
}

// In the term that it is in. With the mutex held.
std::optional<ElasticWorker::Place> ElasticWorker::place_now() const {
  const std::optional<TermRecord>& record = core_->record();
  if (!record || !core_->identity()) return std::nullopt;
  const TermWorker* me = record->find(core_->identity()->worker);
  if (me == nullptr) return std::nullopt;
  return Place{static_cast<int>(me - record->workers.data()),
               static_cast<int>(record->workers.size())};
}

// --- what comes in -----------------------------------------------------------------------------

PeerHandlers ElasticWorker::handlers() {
  PeerHandlers on;
  on.answer = [this](const Hello& hello) {
    const std::lock_guard lock(mutex_);
    return core_->answer(hello);
  };
  on.ballot = [this](const Hello& from, BallotFrame frame) {
    const std::optional<Place> place = place_in(from.term);
    if (!place) return;
    if (frame.data == nullptr || frame.chunk != place->index ||
        !has_sizes_of(*frame.data, replica_.layout(), place->index, place->workers)) {
      log_warning("worker {}'s ballot of step {} has not the sizes of chunk {} of {}: not counted",
                  from.identity.worker, frame.step, place->index, place->workers);
      return;
    }
    with_core([&](WorkerCore& core) { core.ballot(now(), from, std::move(frame)); });
  };
  on.verdict = [this](const Hello& from, VerdictFrame frame) {
    const std::optional<Place> place = place_in(from.term);
    if (!place) return;
    if (frame.chunk < 0 || frame.chunk >= place->workers ||
        !has_sizes_of(frame.data, replica_.layout(), config_.ties, frame.chunk, place->workers,
                      counts_.size()) ||
        !same_digests(frame.data)) {
      log_warning("worker {}'s verdict of step {} is not that of chunk {} of {}: not taken",
                  from.identity.worker, frame.step, frame.chunk, place->workers);
      return;
    }
    with_core([&](WorkerCore& core) { core.verdict(now(), from, std::move(frame)); });
  };
  on.link_opened = [this](std::int64_t term, const Identity& peer) {
    with_core([&](WorkerCore& core) {
      if (core.term() == term) core.link_opened(now(), peer);
    });
  };
  on.peer_lost = [this](std::int64_t term, const Identity& peer, const std::string& why) {
    with_core([&](WorkerCore& core) {
      if (core.term() == term) core.peer_lost(now(), peer, why);
    });
  };
  on.fetched = [this](const Identity& source, FetchReply reply) {
    with_core([&](WorkerCore& core) { core.fetched(now(), source, reply); });
  };
  on.fetch_failed = [this](const Identity& source, const std::string& why) {
    log_info("no records from worker {}: {}", source.worker, why);
    with_core([&](WorkerCore& core) { core.fetch_failed(now(), source); });
  };
  on.serve = [this](const Fetch& fetch) {
    Serving serving;
    {
      const std::lock_guard lock(mutex_);
      serving = core_->serve(fetch);
    }
    if (serving.to_step >= 0)
      serving.reply.records = journal_.after(fetch.from, serving.to_step, kMostServed);
    return serving.reply;
  };
  on.checkpoint = [this] { return checkpoint(); };
  return on;
}

void ElasticWorker::listen_to_coordinator() {
  std::int64_t seen = 0;
  bool again = false;
  while (true) {
    bool join = false;
    Join request;
    {
      std::unique_lock lock(mutex_);
      if (stop_ || failure_) return;
      join = asking_;
    }
    if (join) {
      request.worker = options_.worker;
      request.address = peers_->address();
      request.config = replica_.config_digest();
      request.version = version();
      request.steps = config_.steps;
      request.again = again;
      std::random_device random;
      while (request.nonce == 0) request.nonce = std::uint64_t{random()} << 32 | random();
      std::optional<Identity> identity;
      while (!identity) {
        {
          const std::lock_guard lock(mutex_);
          if (stop_ || failure_ || left_) return;
        }
        try {
          identity = client_.join(request, Deadline::in(std::chrono::seconds(1)));
        } catch (const Timeout& timeout) {
          log_info("waits for the coordinator: {}", timeout.what());
        }
      }
      seen = 0;
      again = true;
      with_core([&](WorkerCore& core) {
        asking_ = false;
        core.joined(now(), *identity);
      });
      continue;
    }
    const auto heard = client_.wait_newer(seen, Deadline::in(kIdle));
    if (!heard) continue;
    seen = heard->number;
    with_core([&](WorkerCore& core) {
      if (heard->order.record && !heard->order.reason.empty())
        reason_ = {heard->order.record->term, heard->order.reason};
      core.ordered(now(), heard->order);
    });
  }
}

// --- the protocol's thread ---------------------------------------------------------------------

void ElasticWorker::serve() {
  TimePoint beat = now();
  while (true) {
    std::vector<Action> actions;
    bool pulse_now = false;
    {
      std::unique_lock lock(mutex_);
      TimePoint wake = beat;
      if (const auto deadline = core_->next_deadline()) wake = std::min(wake, *deadline);
      changed_.wait_until(lock, wake, [&] {
        return stop_ || failure_ || told_ != seen_ ||
               (postponed_ && tasks_.size() < kUpdatesBehind);
      });
      if (stop_ || failure_) return;
      seen_ = told_;
      core_->synced(journal_.durable());
      core_->tick(now());
      if (!leaving_ &&
          ((hooks_.should_stop && hooks_.should_stop()) || replica_.asked_to_leave())) {
        log_info("asked to leave: does so after the step under way");
        leaving_ = true;
        core_->leave(now());
      }
      actions = core_->take();
      pulse_now = now() >= beat;
    }
    for (const Action& action : actions) std::visit([this](const auto& a) { act(a); }, action);
    if (postponed_) {
      std::unique_lock lock(mutex_);
      const bool caught_up = tasks_.size() < kUpdatesBehind;
      lock.unlock();
      if (caught_up) {
        const SendFetch fetch = *std::exchange(postponed_, std::nullopt);
        act(fetch);
      }
    }
    while (const std::optional<ShareOutcome> outcome = writer_.finished()) {
      if (!outcome->written) {
        // No later step would find it, and the run's last files must not hold it. Started again,
        // this worker rebuilds from its journal.
        if (outcome->damaged && outcome->training.step >= config_.steps)
          throw DamagedMemory("the checkpoint of the last step, {}: {}", outcome->training.step,
                              outcome->error);
        log_warning("this worker's share of the checkpoint of step {} is given up: {}",
                    outcome->training.step, outcome->error);
        continue;
      }
      CheckpointFact fact;
      fact.position = {outcome->training.step, outcome->training.journal->chain};
      fact.parameters = wide(outcome->training.digest);
      fact.files = outcome->written->files;
      const std::int32_t members = outcome->share.members;
      fact.share = outcome->share.index / members;  // the protocol's are voters'
      fact.shares = outcome->share.count / members;
      if (members > 1)
        push(ConfirmShare{std::move(fact), outcome->share.number});
      else
        with_core([&](WorkerCore& core) { core.checkpoint_written(now(), fact); });
    }
    if (pulse_now) {
      pulse();
      beat = now() + options_.heartbeat;
    }
  }
}

void ElasticWorker::pulse() {
  std::optional<Pulse> pulse;
  {
    const std::lock_guard lock(mutex_);
    core_->synced(journal_.durable());
    if (core_->identity()) pulse = core_->pulse(now());
    if (pulse) pulse->recorded = recorded_;
  }
  if (pulse) client_.tell(std::move(*pulse));
}

void ElasticWorker::push(Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (std::holds_alternative<ComputeBallot>(task))
      std::erase_if(tasks_, [](const Task& t) { return std::holds_alternative<ComputeBallot>(t); });
    tasks_.push_back(std::move(task));
  }
  changed_.notify_all();
}

void ElasticWorker::act(const SendBallot& send) {
  std::shared_ptr<const VoterBallot> ballot;
  {
    const std::lock_guard lock(mutex_);
    if (cast_ && cast_->step == send.frame.step && cast_->base == send.frame.base &&
        cast_->samples == send.frame.samples)
      ballot = cast_->ballot;
  }
  if (!ballot || !record_ || record_->term != send.term) return;  // overtaken
  const auto chunks = static_cast<int>(record_->workers.size());
  peers_->send(send.to, send.term, send.frame,
               std::make_shared<const BallotData>(
                   part_of(*ballot, replica_.layout(), send.frame.chunk, chunks)));
}

void ElasticWorker::act(const SendVerdict& send) {
  peers_->send(send.to, send.term, send.frame);
}

void ElasticWorker::act(const ComputeBallot& compute) {
  if (compute.step <= config_.steps) push(compute);  // the run ends there, its protocol does not
}

void ElasticWorker::act(const DecideChunk& decision) {
  std::shared_ptr<const VoterBallot> mine;
  const bool own = std::ranges::any_of(decision.ballots,
                                       [](const PolledBallot& b) { return b.data == nullptr; });
  if (own) {
    const std::lock_guard lock(mutex_);
    if (!cast_ || cast_->step != decision.step || cast_->base != decision.base)
      return;  // overtaken
    mine = cast_->ballot;
  }
  std::shared_ptr<const BallotData> part;
  if (mine)
    part = std::make_shared<const BallotData>(
        part_of(*mine, replica_.layout(), decision.chunk, decision.chunks));
  decider_->push([this, decision, part, counts = counts_] { decide(decision, part, counts); });
}

void ElasticWorker::act(const HoldRecord& hold) {
  journal_.append(hold.record);
  for (const MeanRecord& mean : hold.record->means) {
    for (const ParameterState& s : replica_.state().states()) {
      if (s.group->rule != Rule::adamw) continue;
      const StepLayout::Place& place = replica_.layout().place(s);
      if (place.wire == wire_index(mean.wire) &&
          mean.contributors[static_cast<std::size_t>(place.mean_segment)] > 0)
        ++counts_[static_cast<std::size_t>(s.parameter->index)];
    }
  }
  push(Apply{hold, share_of(hold)});
}

// A checkpoint's steps are a pure function of the step number; its shares are the workers' of the
// term that decided the step.
std::optional<CheckpointShare> ElasticWorker::share_of(const HoldRecord& hold) const {
  const std::int64_t step = hold.position.step;
  const bool due = step == config_.steps ||
                   (config_.checkpoint_every > 0 && step % config_.checkpoint_every == 0);
  const auto place = places_.find(hold.record->term);
  if (!due || place == places_.end()) return std::nullopt;
  CheckpointShare share;
  share.index = place->second.index;
  share.count = place->second.workers;
  share.voter = options_.worker;
  return share;
}

void ElasticWorker::act(const SendFetch& fetch) {
  {
    const std::lock_guard lock(mutex_);
    addresses_[fetch.source.identity.worker] = fetch.source.address;
    if (tasks_.size() >= kUpdatesBehind) {
      postponed_ = fetch;
      return;
    }
  }
  postponed_.reset();
  peers_->fetch(fetch.source, fetch.fetch, Deadline::in(options_.fetch_timeout));
}

void ElasticWorker::act(const OpenLinks& open) {
  record_ = open.record;
  const TermWorker* me = record_->find(options_.worker);
  require(me != nullptr, "term {} without worker {}", record_->term, options_.worker);
  places_[record_->term] = {static_cast<int>(me - record_->workers.data()),
                            static_cast<int>(record_->workers.size())};
  if (places_.size() > kPlacesKept) places_.erase(places_.begin());
  std::string reason;
  {
    const std::lock_guard lock(mutex_);
    for (const TermWorker& w : record_->workers) addresses_[w.identity.worker] = w.address;
    if (reason_.first == record_->term) reason = reason_.second;
  }
  push(Enter{*record_, std::move(reason)});
  peers_->open_links(*record_, me->identity);
}

void ElasticWorker::act(const CloseLinks&) {
  record_.reset();
  peers_->close_links();
}

void ElasticWorker::act(const Rewind& rewind) {
  push(rewind);
}

void ElasticWorker::act(const LoadCheckpoint& load) {
  push(load);
}

void ElasticWorker::act(const AskToJoin&) {
  {
    const std::lock_guard lock(mutex_);
    asking_ = true;
  }
  changed_.notify_all();
}

void ElasticWorker::act(const PulseNow&) {
  pulse();
}

void ElasticWorker::act(const Left&) {
  {
    const std::lock_guard lock(mutex_);
    left_ = true;
  }
  changed_.notify_all();
}

void ElasticWorker::act(const OtherLength& other) {
  throw ConfigError("train.steps = {}, the run's is {}: this worker does not belong to it any more",
                    config_.steps, other.steps);
}

void ElasticWorker::act(const PublishCheckpoint& publish) {
  publisher_->push([this, fact = publish.fact] {
    try {
      // Asked while it was stopped, others may have gone on; its shares are gone then.
      const std::vector<CheckpointName> names = checkpoint_names(config_.output_folder);
      if (!names.empty() && names.front().step >= fact.position.step)
        return with_core(
            [&](WorkerCore& core) { core.checkpoint_published(now(), fact.position); });
      PublishPolicy policy;
      policy.keep =
          std::max<std::int64_t>(2, config_.keep_checkpoints);  // R10: one to fall back to
      const std::string path = publish_checkpoint(config_.output_folder, fact.position.step,
                                                  fact.position.digest, policy);
      log_info("published {}", path);
      with_core([&](WorkerCore& core) { core.checkpoint_published(now(), fact.position); });
    } catch (const WorldError& error) {
      log_warning("cannot publish the checkpoint of step {}: {}", fact.position.step, error.what());
      with_core([&](WorkerCore& core) { core.checkpoint_failed(now(), fact.position); });
    }
  });
}

void ElasticWorker::act(const CheckpointsKept& kept) {
  if (kept.older) journal_.forget_until(kept.older->step);
  const std::lock_guard lock(mutex_);
  newest_checkpoint_ = kept.newest;
  if (kept.older) core_->forget_before(kept.older->step);
}

// --- deciding ----------------------------------------------------------------------------------

void ElasticWorker::decide(const DecideChunk& decision, std::shared_ptr<const BallotData> own,
                           std::vector<std::int64_t> counts) {
  const Stopwatch watch;
  std::vector<CountedBallot> ballots;
  for (const PolledBallot& polled : decision.ballots)
    ballots.push_back({polled.voter, polled.data ? polled.data.get() : own.get()});
  const TallyOptions options{static_cast<std::uint64_t>(config_.seed), decision.step - 1,
                             config_.ties};
  ChunkVerdict verdict =
      decide_chunk(replica_.layout(), decision.chunk, decision.chunks, ballots, options);
  if (decision.chunk == 0) {
    std::array<std::span<const std::int32_t>, 2> contributors;
    for (const MeanRecord& mean : verdict.means)
      contributors[wire_index(mean.wire)] = mean.contributors;
    verdict.factors.resize(counts.size());
    find_factors(replica_.state(), replica_.layout(), counts,
                 config_.schedule.factor(decision.step - 1), contributors, verdict.factors);
    if (verdict.figures.loss_faults == static_cast<std::int32_t>(ballots.size()))
      throw DataError(
          "step {}: no worker has a finite loss: the parameters or the data are bad; the "
          "checkpoints from before are kept",
          decision.step);
  }
  with_core([&](WorkerCore& core) {
    tally_seconds_ += watch.elapsed();
    core.decided(now(), decision.term, decision.step, std::move(verdict));
  });
}

// --- computing ---------------------------------------------------------------------------------

bool ElasticWorker::run(ElasticEvents events) {
  events_ = std::move(events);
  const auto failed = [this](std::exception_ptr error) { fail(std::move(error)); };
  const auto guarded = [this](auto body) {
    return std::thread([this, body] {
      try {
        body();
      } catch (...) {
        fail(std::current_exception());
      }
    });
  };
  decider_ = std::make_unique<TaskThread>(failed);
  publisher_ = std::make_unique<TaskThread>(failed);
  with_core([](WorkerCore&) {});  // its first actions wait
  protocol_ = guarded([this] { serve(); });
  coordinator_ = guarded([this] { listen_to_coordinator(); });
  Deadline leave_by, leave_unasked;  // never, until it is asked to leave
  while (true) {
    std::optional<Task> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kIdle, [&] { return failure_ || left_ || !tasks_.empty(); });
      if (failure_) std::rethrow_exception(failure_);
      if (left_) return false;
      if (leaving_) {
        leave_by.at = std::min(leave_by.at, now() + patience_);
        leave_unasked.at = core_->state() == WorkerState::voting
                               ? TimePoint::max()
                               : std::min(leave_unasked.at, now() + kLeaveUnasked);
      }
      if (!tasks_.empty()) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
    }
    look_at_members();
    if (task) {
      std::visit([this](const auto& t) { run(t); }, *task);
      changed_.notify_all();  // a fetch may have waited for it
    } else if (is_over()) {
      return true;
    } else if (leave_by.passed() || leave_unasked.passed()) {
      const std::string trouble = client_.trouble();
      log_warning("nobody let this worker go in time{}{}: it leaves as if it had died",
                  trouble.empty() ? "" : ", ", trouble);
      return false;
    }
  }
}

void ElasticWorker::run(const Enter& enter) {
  if (events_.entered) events_.entered(enter.record, enter.reason);
  if (replica_.position().step >= config_.steps) begin_last_checkpoint();
}

// A worker that died with its share of the last checkpoint would leave it undone for ever: no later
// step brings another. So every term that has the last step makes one anew.
void ElasticWorker::begin_last_checkpoint() {
  std::optional<Place> place;
  {
    const std::lock_guard lock(mutex_);
    place = place_now();
  }
  if (place) replica_.begin_checkpoint({place->index, place->workers, options_.worker}, writer_);
}

void ElasticWorker::run(const ConfirmShare& confirm) {
  unconfirmed_.push_back(confirm);
}

// A share is written when every member has written its part of it.
void ElasticWorker::look_at_members() {
  replica_.keep_members();
  if (unconfirmed_.empty() || now() < look_at_) return;
  look_at_ = now() + kIdle;
  const Replica::OthersShare others = replica_.look_at_checkpoint(unconfirmed_.front().number);
  if (others == Replica::OthersShare::writing) return;
  const CheckpointFact fact = std::move(unconfirmed_.front().fact);
  unconfirmed_.pop_front();
  const std::int64_t step = fact.position.step;
  if (others == Replica::OthersShare::failed)
    log_warning(
        "this voter's share of the checkpoint of step {} is given up: a member could not "
        "write its part, its log says why",
        step);
  else
    with_core([&](WorkerCore& core) { core.checkpoint_written(now(), fact); });
}

void ElasticWorker::run(const ComputeBallot& compute) {
  if (replica_.position() != compute.base) return;  // it has gone back since
  std::shared_ptr<const VoterBallot> ballot = replica_.cast(compute.samples, compute.voter);
  with_core([&](WorkerCore& core) {
    cast_ = Cast{compute.step, compute.base, compute.samples, std::move(ballot)};
    core.ballot_ready(now(), compute.step, compute.base, compute.samples);
  });
}

void ElasticWorker::run(const Apply& apply) {
  const Record& record = *apply.hold.record;
  const AppliedRecord applied = replica_.apply(record, true);
  require(replica_.position() == apply.hold.position && replica_.ledger() == apply.hold.ledger,
          "step {}: the replica is not where its record leads", record.step);
  journal_.append(applied);
  with_core([&](WorkerCore& core) { core.applied(replica_.position(), wide(applied.parameters)); });
  if (record.step >= config_.steps && apply.hold.fetched)
    begin_last_checkpoint();  // with those who have entered this term, not with those who decided
                              // it
  else if (apply.share)
    replica_.begin_checkpoint(*apply.share, writer_);
  if (events_.applied) {
    std::optional<StepFigures> figures;
    if (!apply.hold.fetched) figures = figures_of(record, apply.hold.figures);
    AppliedAnswer answer = events_.applied(applied, figures);
    with_core([&](WorkerCore& core) {
      core.judged(std::move(answer.judgement));
      recorded_ = answer.recorded;
    });
  }
  if (hooks_.after_step) hooks_.after_step(record.step, replica_.arena());
}

void ElasticWorker::run(const Rewind& rewind) {
  log_info("goes back from step {} to {}{}", replica_.position().step, rewind.to.step,
           rewind.rebuild ? ", its parameters are wrong" : "");
  writer_.give_up("this worker goes back");
  Recovered state = recovery_.rewind(rewind.to, rewind.rebuild);
  const std::vector<std::int64_t> counts = replica_.counts();
  with_core([&](WorkerCore& core) {
    cast_.reset();
    counts_ = counts;
    core.rewound(now(), std::move(state));
  });
}

std::optional<Recovered> ElasticWorker::copy_checkpoint(const Source& source, Deadline deadline) {
  const std::string folder = config_.output_folder + "/checkpoints/" +
                             fmt::format(".from-worker-{}", source.identity.worker);
  try {
    std::filesystem::remove_all(folder);  // of a process that died while it copied
    peers_->download(source, folder, deadline);
  } catch (const TransportError& error) {
    log_warning("no checkpoint from worker {}: {}", source.identity.worker, error.what());
    return std::nullopt;
  } catch (const Timeout& error) {
    log_warning("no checkpoint from worker {}: {}", source.identity.worker, error.what());
    return std::nullopt;
  }
  return recovery_.adopt(folder);
}

void ElasticWorker::run(const LoadCheckpoint& load) {
  writer_.give_up("this worker loads a checkpoint");
  History history;
  std::string address;
  {
    const std::lock_guard lock(mutex_);
    history = core_->history();
    address = addresses_[load.source.identity.worker];
  }
  Source source = load.source;
  if (source.address.empty()) source.address = address;
  const bool ended = source.identity == Identity{};  // the run: there is a checkpoint of its end
  if (ended)
    log_info("the run has ended without this worker, which was at step {}", history.last().step);
  else
    log_info("has to load a checkpoint: worker {} keeps nothing that follows step {}",
             source.identity.worker, history.last().step);
  std::optional<Recovered> state = recovery_.load_newest(history);
  const Deadline deadline = Deadline::in(patience_);
  while (!state) {
    if (!ended) state = copy_checkpoint(source, deadline);
    if (!state) state = recovery_.load_newest(history);
    if (state) break;
    replica_.keep_members();
    std::unique_lock lock(mutex_);
    if (deadline.passed())
      throw Timeout(
          "no checkpoint that leads on from step {} came from the run's folder{} within {:.0f} s",
          history.last().step, ended ? "" : fmt::format(" or worker {}", source.identity.worker),
          seconds(patience_));
    changed_.wait_for(lock, kIdle, [&] { return failure_ || stop_; });
    if (failure_) std::rethrow_exception(failure_);
  }
  const std::vector<std::int64_t> counts = replica_.counts();
  with_core([&](WorkerCore& core) {
    cast_.reset();
    counts_ = counts;
    core.rewound(now(), std::move(*state));
  });
}

// The last step is committed, and its checkpoint published.
bool ElasticWorker::is_over() {
  if (replica_.position().step < config_.steps) return false;
  const std::lock_guard lock(mutex_);
  if (core_->told().step < config_.steps || !core_->history().contains(core_->told())) return false;
  if (newest_checkpoint_.step >= config_.steps) return true;
  if (!end_by_) end_by_ = Deadline::in(patience_);
  if (end_by_->passed())
    throw Timeout("the checkpoint of the last step, {}, was not published within {:.0f} s ({})",
                  config_.steps, seconds(patience_), core_->stage());
  return false;
}

double ElasticWorker::take_tally_seconds() {
  const std::lock_guard lock(mutex_);
  return std::exchange(tally_seconds_, 0.0);
}

std::int64_t ElasticWorker::checkpoint_step() const {
  const std::lock_guard lock(mutex_);
  return newest_checkpoint_.step;
}

std::string ElasticWorker::checkpoint() const {
  const std::lock_guard lock(mutex_);
  if (newest_checkpoint_.step == 0) return "";
  return fmt::format("{}/checkpoints/step-{:08}", config_.output_folder, newest_checkpoint_.step);
}

}  // namespace ballot
