// Events in order of time; every handler runs to its end before the next.
#include "tests/simulation/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <queue>

#include "core/error.h"
#include "runtime/protocol/journal_log.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/shared_store.h"
#include "tests/simulation/simulated_disk.h"

namespace ballot::sim {
namespace {

using std::chrono::milliseconds;

// The process stops here, at once.
struct Killed {
  Milliseconds back_after = 0;
  bool disk_lost = false;
};

constexpr int kFirstCoordinator = 30;  // nodes below are workers
constexpr Milliseconds kHeartbeat = 200;
constexpr Milliseconds kHeartbeatTimeout = 1000;
constexpr Milliseconds kSyncInterval = 130;
constexpr Milliseconds kBeat = 60;
constexpr std::size_t kFetchMost = 5;

MembershipOptions membership_of(const Scenario& s) {
  MembershipOptions o;
  o.min_workers = s.min_workers;
  o.start_workers = s.workers;
  o.quorum = s.quorum;
  o.heartbeat_timeout = milliseconds(kHeartbeatTimeout);
  o.seal_timeout = milliseconds(1200);
  o.planned_timeout = milliseconds(6000);
  o.cold_wait = milliseconds(4000);
  o.suspicion_window = milliseconds(15000);
  o.stream_grace = milliseconds(300);
  o.max_lag = 4;
  o.mutations = s.mutations;
  return o;
}

WorkerOptions worker_options_of(const Scenario& s) {
  WorkerOptions o;
  o.run = "simulated";
  o.per_voter = s.per_voter;
  o.exchange_timeout = milliseconds(2500);
  o.late_grace = milliseconds(120);
  o.fetch_timeout = milliseconds(700);
  o.fetch_pause = milliseconds(100);
  o.mutations = s.mutations;
  return o;
}

class World {
 public:
  World(const Scenario& scenario, bool traced)
      : s_(scenario),
        traced_(traced),
        random_(scenario.seed),
        checker_(genesis(scenario.seed), scenario.per_voter) {}

  Outcome run() {
    try {
      set_up();
      while (!queue_.empty() && !finished_) step();
      if (!finished_) throw Violation("I13", "nothing is left to happen");
    } catch (const Violation& broken) {
      outcome_.invariant = broken.invariant;
      outcome_.what = broken.what();
    } catch (const std::exception& wrong) {
      outcome_.invariant = "logic";
      outcome_.what = wrong.what();
    }
    outcome_.when = now_;
    for (const auto& w : workers_)
      if (w->core) outcome_.steps = std::max(outcome_.steps, w->core->held().step);
    return std::move(outcome_);
  }

 private:
  // --- what there is --------------------------------------------------------------------------
  struct Link {
    Identity peer;
    std::int64_t term = 0;
    bool open = false, over = false;
  };
  struct Worker {
    int number = 0;
    SimulatedDisk disk;
    std::int64_t epoch = 0;  // of its process; events of older ones are void
    bool started = false, alive = false, left = false, leaving = false, for_good = false;
    std::int64_t steps = 0;  // its last; 0: none
    bool ended = false;      // its process, well, at that step
    bool disk_suspect = false;
    Milliseconds paused_until = 0;
    int slow = 1;
    Milliseconds slow_until = 0, syncs_from = 0, apply_takes = 0, slow_apply_until = 0;
    Milliseconds cut_off_until = 0;  // its pulses arrive nowhere
    // The process:
    std::unique_ptr<Journal> journal;
    std::unique_ptr<JournalLog> log;
    std::unique_ptr<WorkerCore> core;
    std::optional<ToyModel> model;
    bool flipped = false;     // and it has not been rebuilt since
    Digest made;              // what its last update, or a load, made of its parameters
    bool last_share = false;  // of the last step's checkpoint, in the term that it has entered
    struct Unapplied {
      HoldRecord hold;
      std::optional<CheckpointFact> share;  // that it writes of a checkpoint there
    };
    std::deque<Unapplied> unapplied;  // the first one is being applied
    std::shared_ptr<const ToyBallot> ballot;
    std::vector<Link> links;
    std::int64_t link_epoch = 0;
    std::uint64_t nonce = 0;
    std::int64_t asking = 0;
    int coordinator = 0;
    Milliseconds last_answer = 0;
    std::optional<Milliseconds> tick_at;
    std::int64_t computing = 0;
  };
  struct Coordinator {
    int number = 0;
    std::int64_t epoch = 0;
    bool alive = false, reading = false;
    Milliseconds paused_until = 0;
    std::unique_ptr<CoordinatorCore> core;
    struct Told {
      Identity identity;
      WorkerState state = WorkerState::joining;
      Order order;
    };
    std::map<int, Told> told;  // what it ordered last, by worker
    std::int64_t news = 0;     // of the core, as pushed
  };
  struct Event {
    Milliseconds at = 0;
    std::int64_t order = 0;
    int node = -1;            // -1: the world's own
    std::int64_t epoch = -1;  // of the node's process; -1: whichever is there
    std::function<void()> what;
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const {
      return std::pair(a.at, a.order) > std::pair(b.at, b.order);
    }
  };
  struct Trigger {
    int node = 0;
    Point point = Point::send_ballot;
    int count = 0;
    Milliseconds back_after = 0;
  };

  TimePoint time() const { return TimePoint(milliseconds(now_)); }
  Worker& worker(int i) { return *workers_[static_cast<std::size_t>(i)]; }
  Coordinator& coordinator(int i) { return coordinators_[static_cast<std::size_t>(i)]; }

  template <class... Args>
  void note(fmt::format_string<Args...> text, Args&&... args) {
    if (traced_)
      outcome_.trace.push_back(
          fmt::format("{:6} {}", now_, fmt::format(text, std::forward<Args>(args)...)));
  }

  // --- events ---------------------------------------------------------------------------------
  void at(Milliseconds when, int node, std::int64_t epoch, std::function<void()> what) {
    queue_.push({std::max(when, now_), ++order_, node, epoch, std::move(what)});
  }
  void in(Milliseconds delay, const Worker& w, std::function<void()> what) {
    at(now_ + delay, w.number, w.epoch, std::move(what));
  }
  void in(Milliseconds delay, const Coordinator& c, std::function<void()> what) {
    at(now_ + delay, kFirstCoordinator + c.number, c.epoch, std::move(what));
  }

  void step() {
    Event event = std::move(const_cast<Event&>(queue_.top()));  // it is popped at once
    queue_.pop();
    now_ = event.at;
    if (++outcome_.events > 400'000) throw Violation("I13", "the run does not end");
    if (event.node < 0) return event.what();
    const bool is_worker = event.node < kFirstCoordinator;
    const bool alive =
        is_worker ? worker(event.node).alive : coordinator(event.node - kFirstCoordinator).alive;
    const std::int64_t epoch =
        is_worker ? worker(event.node).epoch : coordinator(event.node - kFirstCoordinator).epoch;
    if (!alive || (event.epoch >= 0 && event.epoch != epoch)) return;
    const Milliseconds paused = is_worker
                                    ? worker(event.node).paused_until
                                    : coordinator(event.node - kFirstCoordinator).paused_until;
    if (paused > now_) {
      // What happened meanwhile is found, in order, when it goes on.
      queue_.push({paused, event.order, event.node, event.epoch, std::move(event.what)});
      return;
    }
    try {
      event.what();
      if (is_worker) settle(worker(event.node));
    } catch (const Killed& killed) {
      if (is_worker)
        kill(worker(event.node), killed.back_after, killed.disk_lost);
      else
        kill(coordinator(event.node - kFirstCoordinator), killed.back_after);
    } catch (const FileError& error) {
      if (!is_worker) throw;
      note("w{} ends: {}", event.node, error.what());
      kill(worker(event.node), 700, false);
    }
  }

  void reach(int node, Point point) {
    for (Trigger& t : triggers_) {
      if (t.node != node || t.point != point || t.count <= 0) continue;
      if (--t.count > 0) continue;
      note("node {} dies at {}", node, to_string(point));
      throw Killed{t.back_after, false};
    }
  }

  // --- the network ----------------------------------------------------------------------------
  struct Trouble {
    Fault fault;
    Milliseconds until = 0;
  };
  bool apart(int from, int to) const {
    for (const Trouble& t : troubles_) {
      if (now_ >= t.until) continue;
      if (t.fault.kind == Fault::Kind::partition &&
          (t.fault.mask >> from & 1) != (t.fault.mask >> to & 1))
        return true;
      if (t.fault.kind == Fault::Kind::cut_link && t.fault.who == from && t.fault.other == to)
        return true;
    }
    return false;
  }
  double rate(Fault::Kind kind, int* count = nullptr) const {
    double most = 0;
    for (const Trouble& t : troubles_)
      if (t.fault.kind == kind && now_ < t.until && t.fault.rate > most) {
        most = t.fault.rate;
        if (count != nullptr) *count = t.fault.count;
      }
    return most;
  }
  // One message; false if the sender may learn that it is lost.
  bool send(int from, int to, std::function<void()> receive) {
    if (apart(from, to) || random_.chance(rate(Fault::Kind::loss))) return false;
    int late = 1;
    const double lateness = rate(Fault::Kind::delays, &late);
    const int copies = random_.chance(rate(Fault::Kind::doubles)) ? 2 : 1;
    for (int i = 0; i < copies; ++i) {
      Milliseconds delay = random_.between(1, 8);
      if (random_.chance(lateness) || i > 0) delay += random_.below(std::max(late, 30));
      at(now_ + delay, to, -1, receive);
    }
    return true;
  }

  // --- workers --------------------------------------------------------------------------------
  void start(Worker& w) {
    require(!w.alive, "worker {} is started twice", w.number);
    ++w.epoch;
    w.started = w.alive = true;
    w.ended = w.last_share = false;
    w.paused_until = 0;
    w.link_epoch = 0;
    w.links.clear();
    w.ballot.reset();
    w.tick_at.reset();
    w.unapplied.clear();
    w.last_answer = now_;
    try {
      const Position begin = store_.newest_whole() == nullptr
                                 ? genesis(s_.seed)
                                 : store_.newest_whole()->model.position;
      w.journal = std::make_unique<Journal>(w.disk, "run/journal", digest_of("simulated"), begin,
                                            JournalOptions{2000});
    } catch (const FileError& error) {
      note("w{} cannot start: {}", w.number, error.what());
      w.alive = false;
      w.disk.crash(random_);
      at(now_ + 700, -1, -1, [this, &w] {
        if (!w.alive && !w.left) start(w);
      });
      return;
    }
    w.log = std::make_unique<JournalLog>(*w.journal);
    const bool loads = w.journal->end() == w.journal->begin() && w.journal->end().step > 0;
    if (loads) ++outcome_.loaded_checkpoints;  // a newcomer, or one whose disk is lost
    // All that it had was a checkpoint that cannot be read any more.
    if (w.journal->end() == w.journal->begin() && store_.has_damage()) checker_.disk_lost(w.number);
    checker_.restarted(w.number, w.journal->end());
    WorkerOptions options = worker_options_of(s_);
    options.address = fmt::format("worker-{}", w.number);
    if (w.steps > 0) options.last_step = w.steps;
    std::optional<Recovered> state = replay(w, w.journal->end());
    if (!state) {
      // Or what its records follow: they are of no use.
      if (store_.has_damage()) checker_.disk_lost(w.number);
      state = load_newest(w);
    }
    w.core = std::make_unique<WorkerCore>(options, std::move(*state));
    note("w{} starts at step {}", w.number, w.core->held().step);
    w.computing = 0;
    heartbeat(w);
    sync_timer(w);
    at(now_, w.number, w.epoch, [] {});  // its first actions
  }

  // The model and the rest as the newest checkpoint on the journal, and the journal, give them.
  // Nothing: no checkpoint is on it any more.
  std::optional<Recovered> replay(Worker& w, const Position& to) {
    const Snapshot* base = nullptr;
    for (const Snapshot* snapshot : store_.whole_ones())
      if (snapshot->model.position.step <= to.step && w.journal->contains(snapshot->model.position))
        base = snapshot;
    if (base == nullptr && w.journal->begin() != genesis(s_.seed)) return std::nullopt;
    w.unapplied.clear();
    w.flipped = false;
    w.model.emplace(s_.seed);
    Recovered state{History(genesis(s_.seed)), {}};
    if (base != nullptr) {
      w.model = base->model;
      state = {History(base->model.position, base->term), base->ledger};
    }
    const Position from = w.model->position;
    for (const auto& record :
         w.log->after(from, to.step, std::numeric_limits<std::size_t>::max())) {
      const Position position = record->position();
      w.model->apply(*record, position, s_.mutations.update_in_record);
      checker_.applied(position, w.model->digest());
      state.history.append(position, record->term);
      std::vector<std::uint64_t> counted;
      for (const ChunkVerdictRecord& chunk : record->chunks) {
        counted.resize(std::max(counted.size(), chunk.counted.size()));
        for (std::size_t i = 0; i < chunk.counted.size(); ++i) counted[i] |= chunk.counted[i];
      }
      if (!s_.mutations.bare_counter) {
        state.ledger = remove_counted(state.ledger, record->ranges, counted);
      } else {
        for (const VoterRange& r : record->ranges)
          state.ledger.next = std::max(state.ledger.next, r.samples.end);
      }
    }
    state.parameters = w.made = w.model->digest();
    return state;
  }

  // From the shared folder: the journal goes on after it.
  Recovered load_newest(Worker& w) {
    const Snapshot* newest = store_.newest_whole();
    require(newest != nullptr, "worker {} has no checkpoint to load", w.number);
    w.unapplied.clear();
    w.flipped = false;
    w.model = newest->model;
    const Position position = newest->model.position;
    w.made = w.model->digest();
    checker_.loads(w.number, position, w.made);
    w.journal->restart_at(position);
    checker_.durable(w.number, position);
    ++outcome_.loaded_checkpoints;
    return {History(position, newest->term), newest->ledger, w.made};
  }

  void kill(Worker& w, Milliseconds back_after, bool disk_lost) {
    if (!w.alive) return;
    ++outcome_.crashes;
    note("w{} dies at step {}{}", w.number, w.core->held().step, disk_lost ? ", disk lost" : "");
    w.alive = false;
    if (s_.connections_end) {
      break_stream(w);
      break_links(w, ~0u);
    }
    checker_.worker_died(w.number);
    w.core.reset();
    w.log.reset();
    w.journal.reset();
    w.disk.crash(random_);
    if (disk_lost && checker_.may_lose_disk(w.number)) {
      w.disk.lose_everything();
      checker_.disk_lost(w.number);
    }
    if (w.leaving) {
      w.left = true;
      return;
    }
    if (back_after > 0)
      at(now_ + back_after, -1, -1, [this, &w] {
        if (!w.alive && !w.left && !w.for_good) start(w);
      });
    else
      w.for_good = true;
  }

  void heartbeat(Worker& w) {
    in(kHeartbeat + random_.below(20), w, [this, &w] {
      if (w.core->identity()) pulse(w);
      heartbeat(w);
    });
  }

  void sync_timer(Worker& w) {
    in(kSyncInterval + random_.below(60), w, [this, &w] {
      if (now_ >= w.syncs_from && w.journal->durable() != w.journal->end()) {
        reach(w.number, Point::before_sync);
        const Position durable = w.log->sync();
        checker_.durable(w.number, durable);
        reach(w.number, Point::after_sync);
        w.core->synced(durable);
      }
      sync_timer(w);
    });
  }

  // The coordinator that it pulses to sees the connection end, unless nothing reaches it.
  void break_stream(Worker& w) {
    if (!w.core->identity() || apart(w.number, kFirstCoordinator + w.coordinator)) return;
    const Identity identity = *w.core->identity();
    Coordinator& c = coordinator(w.coordinator);
    at(now_ + random_.between(1, 8), kFirstCoordinator + c.number, -1,
       [this, &c, identity] { c.core->stream_broken(time(), identity); });
  }

  // Its peers, that is some of them, see their links to it end, and give it up soon.
  void break_links(Worker& w, std::uint32_t peers) {
    if (!w.core->identity() || !w.core->record()) return;
    const Identity identity = *w.core->identity();
    for (const auto& other : workers_)
      if (other->alive && other.get() != &w && (peers >> other->number & 1) != 0 &&
          !apart(w.number, other->number))
        at(now_ + random_.between(30, 150), other->number, other->epoch,
           [this, &peer = *other, identity] {
             peer.core->peer_lost(time(), identity, "connection reset");
           });
  }

  void choose_coordinator(Worker& w) {
    if (now_ - w.last_answer < 700) return;
    w.coordinator = static_cast<int>((w.coordinator + 1) % s_.coordinators);
    w.last_answer = now_;
  }

  void pulse(Worker& w) {
    choose_coordinator(w);
    const bool sealed = w.core->state() == WorkerState::sealed;
    if (sealed) reach(w.number, Point::before_sealed_pulse);
    const Pulse p = w.core->pulse(time());
    if (sealed) checker_.sealed_pulse(w.number, p);
    const int c = w.coordinator;
    if (now_ >= w.cut_off_until)
      send(w.number, kFirstCoordinator + c, [this, p, c] { pulsed(coordinator(c), p); });
    if (sealed) reach(w.number, Point::after_sealed_pulse);
  }

  void ask_to_join(Worker& w, std::int64_t asking) {
    if (asking != w.asking || w.core->identity()) return;
    choose_coordinator(w);
    Join join;
    join.run = "simulated";
    join.worker = w.number;
    join.nonce = w.nonce;
    join.steps = w.steps;
    const int c = w.coordinator;
    const int from = w.number;
    send(from, kFirstCoordinator + c, [this, join, c, from, asking] {
      Coordinator& to = coordinator(c);
      const JoinAnswer answer = to.core->join(time(), join);
      if (to.core->wants_beat()) beat(to);
      if (std::holds_alternative<JoinRefused>(answer))
        send(kFirstCoordinator + c, from, [this, from, asking] {
          Worker& me = worker(from);
          if (asking == me.asking && !me.core->identity()) end_with_other_length(me);
        });
      if (const auto* identity = std::get_if<Identity>(&answer))
        send(kFirstCoordinator + c, from, [this, from, asking, given = *identity] {
          Worker& me = worker(from);
          if (asking != me.asking || me.core->identity()) return;
          me.last_answer = now_;
          note("w{} is incarnation {}", from, given.incarnation);
          me.core->joined(time(), given);
        });
    });
    in(90, w, [this, &w, asking] { ask_to_join(w, asking); });
  }

  // After an event of its own: does what the core wants, then looks at everything.
  void settle(Worker& w) {
    if (!w.alive) return;
    for (int turns = 0;; ++turns) {
      require(turns < 1000, "worker {} acts for ever", w.number);
      const std::vector<Action> actions = w.core->take();
      if (actions.empty()) break;
      for (const Action& action : actions) {
        std::visit([&](const auto& a) { act(w, a); }, action);
        if (!w.alive) return;
      }
    }
    std::vector<const WorkerCore*> all;
    for (const auto& other : workers_)
      if (other->alive) all.push_back(other->core.get());
    checker_.worker(w.number, *w.core, all);
    if (w.core->has_ended() && w.unapplied.empty()) return end(w);
    if (const auto deadline = w.core->next_deadline()) {
      const auto when = std::chrono::ceil<milliseconds>(deadline->time_since_epoch()).count();
      if (!w.tick_at || *w.tick_at > when || *w.tick_at <= now_) {
        w.tick_at = std::max(when, now_ + 1);
        in(*w.tick_at - now_, w, [this, &w] {
          w.tick_at.reset();
          w.core->tick(time());
        });
      }
    }
  }

  void act(Worker& w, const AskToJoin&) {
    w.nonce = random_.next();
    note("w{} asks to join at step {}", w.number, w.core->held().step);
    ask_to_join(w, ++w.asking);
  }
  void act(Worker& w, const PulseNow&) {
    if (w.core->identity()) pulse(w);
  }
  void act(Worker& w, const Left&) {
    note("w{} has left", w.number);
    break_stream(w);
    w.left = true;
    w.alive = false;
    checker_.worker_died(w.number);
  }

  // The process, well: nothing is left to do.
  void end(Worker& w) {
    checker_.ends(w.number, w.steps, w.model->position,
                  w.flipped ? std::nullopt : std::optional(w.model->digest()));
    note("w{} has ended at step {}", w.number, w.steps);
    if (s_.connections_end) {
      break_stream(w);
      break_links(w, ~0u);
    }
    w.alive = false;
    w.ended = true;
    w.left = w.leaving;  // told to leave, and it had nothing left to do
    checker_.worker_died(w.number);
    w.core.reset();
    w.log.reset();
    w.journal.reset();
  }
  // It is told both lengths, and is started again with the run's.
  void end_with_other_length(Worker& w) {
    note("w{} has {} steps, the run {}: it ends", w.number, w.steps, stored_.steps);
    if (stored_.steps > 0) w.steps = stored_.steps;
    throw Killed{700, false};
  }
  void act(Worker& w, const OtherLength&) { end_with_other_length(w); }

  void act(Worker& w, const OpenLinks& open) {
    note("w{} enters term {} of {} at step {}, start {}", w.number, open.record.term,
         open.record.workers.size(), w.core->held().step, open.record.start.step);
    reach(w.number, Point::entered);
    ++w.link_epoch;
    w.links.clear();
    for (const TermWorker& peer : open.record.workers)
      if (peer.identity != *w.core->identity())
        w.links.push_back({peer.identity, open.record.term, false, false});
    for (std::size_t i = 0; i < w.links.size(); ++i) say_hello(w, i, w.link_epoch);
    w.last_share = true;
    write_last_share(w);
  }
  void act(Worker& w, const CloseLinks&) {
    ++w.link_epoch;
    w.links.clear();
  }
  void say_hello(Worker& w, std::size_t link, std::int64_t epoch) {
    if (epoch != w.link_epoch || w.links[link].open || w.links[link].over) return;
    const int from = w.number, to = w.links[link].peer.worker;
    const Hello hello{"simulated", w.links[link].term, *w.core->identity()};
    send(from, to, [this, hello, from, to, link, epoch, owner = w.epoch] {
      const LinkAnswer answer = worker(to).core->answer(hello);
      // The answer travels back to the process that asked.
      if (!apart(to, from))
        at(now_ + random_.between(1, 8), from, owner, [this, from, link, epoch, answer] {
          Worker& me = worker(from);
          if (epoch != me.link_epoch || me.links[link].open) return;
          if (answer == LinkAnswer::refuse) me.links[link].over = true;
          if (answer != LinkAnswer::accept) return;
          me.links[link].open = true;
          me.core->link_opened(time(), me.links[link].peer);
        });
    });
    in(60, w, [this, &w, link, epoch] { say_hello(w, link, epoch); });
  }
  // A frame over an open link. Lost: half of the time the sender notices and says Hello again.
  void send_frame(Worker& w, const Identity& to,
                  std::function<void(Worker&, const Hello&)> receive) {
    const auto link = std::ranges::find(w.links, to, &Link::peer);
    if (link == w.links.end() || !link->open) return;
    const Hello hello{"simulated", link->term, *w.core->identity()};
    const int target = to.worker;
    const bool sent = send(w.number, target, [this, hello, target, receive = std::move(receive)] {
      receive(worker(target), hello);
    });
    if (sent || random_.chance(0.5)) return;
    link->open = false;
    say_hello(w, static_cast<std::size_t>(link - w.links.begin()), w.link_epoch);
  }

  void act(Worker& w, const ComputeBallot& compute) {
    checker_.computes(*w.core);
    w.ballot.reset();
    Milliseconds takes = random_.between(80, 260);
    if (now_ < w.slow_until) takes *= w.slow;
    compute_after(takes, w, compute, ++w.computing);
  }
  void compute_after(Milliseconds takes, Worker& w, const ComputeBallot& compute,
                     std::int64_t number) {
    in(takes, w, [this, &w, compute, number] {
      if (number != w.computing) return;
      // It begins once all steps are applied.
      if (!w.unapplied.empty()) return compute_after(random_.between(80, 260), w, compute, number);
      if (w.model->position != compute.base) return;
      w.ballot = compute_ballot(*w.model, w.number, compute.samples);
      w.core->ballot_ready(time(), compute.step, compute.base, compute.samples);
    });
  }
  void act(Worker& w, const SendBallot& send) {
    reach(w.number, Point::send_ballot);
    require(w.ballot != nullptr, "worker {} sends a ballot that it does not have", w.number);
    const BallotFrame frame = send.frame;
    send_frame(w, send.to, [this, frame, mine = w.ballot](Worker& to, const Hello& hello) {
      BallotFrame arrived = frame;
      arrived.data = std::make_shared<const ToyBallot>(*mine);  // so that it is known which came
      checker_.delivered(to.number, arrived.data.get(), hello);
      to.core->ballot(time(), hello, std::move(arrived));
    });
  }
  void act(Worker& w, const DecideChunk& decide) {
    std::vector<std::shared_ptr<const ToyBallot>> ballots;
    for (const PolledBallot& b : decide.ballots)
      ballots.push_back(b.data ? std::static_pointer_cast<const ToyBallot>(b.data) : w.ballot);
    for (const auto& b : ballots)
      require(b != nullptr, "worker {} decides without a ballot it counts", w.number);
    ChunkVerdict verdict = tally_chunk(decide, ballots, *w.model, s_.mutations.update_in_record);
    in(random_.between(0, 6), w, [this, &w, decide, ballots, verdict] {
      // The core drops what comes after a seal: then it was not decided.
      const WorkerCore& core = *w.core;
      const bool stands = core.record() && core.term() == decide.term &&
                          (core.state() == WorkerState::voting || s_.mutations.no_promise) &&
                          decide.step > core.held().step;
      if (stands) checker_.decided(core, decide, ballots, verdict);
      w.core->decided(time(), decide.term, decide.step, verdict);
    });
  }
  void act(Worker& w, const SendVerdict& send) {
    reach(w.number, Point::send_verdict);
    send_frame(w, send.to, [this, frame = send.frame](Worker& to, const Hello& hello) {
      VerdictFrame arrived = *frame;
      checker_.delivered(to.number, arrived.data.verdict.bits.data(), hello);
      to.core->verdict(time(), hello, std::move(arrived));
    });
  }
  void act(Worker& w, const HoldRecord& hold) {
    checker_.holds(*w.core, hold);
    if (w.steps > 0 && hold.position.step > w.steps && !hold.fetched)
      throw Violation("I15", fmt::format("worker {} holds step {}, its last is {}", w.number,
                                         hold.position.step, w.steps));
    if (hold.fetched) ++outcome_.fetched_records;
    note("w{} {} step {} of term {}", w.number, hold.fetched ? "fetched" : "holds",
         hold.position.step, hold.record->term);
    if (hold.position.step > furthest_) {
      if (furthest_ > 0)
        outcome_.longest_pause = std::max(outcome_.longest_pause, now_ - moved_at_);
      furthest_ = hold.position.step;
      moved_at_ = now_;
    }
    reach(w.number, Point::before_append);
    w.log->append(s_.mutations.update_in_record ? without_means(*hold.record) : *hold.record);
    w.unapplied.push_back({hold, share_of(w, hold)});
    if (w.unapplied.size() > 1) return;
    if (now_ >= w.slow_apply_until) return apply_next(w);
    in(w.apply_takes, w, [this, &w] { apply_next(w); });
  }
  void apply_next(Worker& w) {
    if (w.unapplied.empty()) return;  // it went back
    const auto [hold, share] = w.unapplied.front();
    w.unapplied.pop_front();
    reach(w.number, Point::before_apply);
    w.model->apply(*hold.record, hold.position, s_.mutations.update_in_record);
    const Digest digest = w.model->digest();
    if (w.flipped && checker_.is_right(hold.position, digest)) w.flipped = false;  // rounded away
    if (!w.flipped) checker_.applied(hold.position, digest);
    w.made = digest;
    w.core->applied(hold.position, digest);
    if (share) write_share(w, {*w.model, hold.ledger, hold.record->term}, *share);
    if (hold.fetched) w.last_share = true;
    if (w.unapplied.empty()) return write_last_share(w);
    in(now_ >= w.slow_apply_until ? 0 : w.apply_takes, w, [this, &w] { apply_next(w); });
  }

  // R10: workers write shares of checkpoints of steps that their term has decided.
  std::optional<CheckpointFact> share_of(const Worker& w, const HoldRecord& hold) const {
    const bool due = hold.position.step == w.steps ||
                     (s_.checkpoint_every > 0 && hold.position.step % s_.checkpoint_every == 0);
    if (hold.fetched || !due) return std::nullopt;
    return share_at(w, hold.position);
  }
  CheckpointFact share_at(const Worker& w, const Position& position) const {
    const auto& members = w.core->record()->workers;
    const auto mine = std::ranges::find(members, *w.core->identity(), &TermWorker::identity);
    CheckpointFact fact;
    fact.position = position;
    fact.share = static_cast<std::int32_t>(mine - members.begin());
    fact.shares = static_cast<std::int32_t>(members.size());
    fact.files = {fmt::format("share-{}", fact.share)};
    return fact;
  }
  // D29: of the last step's, with those whom it is in a term with then.
  void write_last_share(Worker& w) {
    if (w.steps == 0 || !w.unapplied.empty() || w.model->position.step < w.steps) return;
    if (!std::exchange(w.last_share, false) || !w.core->record()) return;
    const Position position = w.model->position;
    if (w.core->held() != position) return;
    write_share(w, {*w.model, w.core->ledger(), w.core->history().last_term()},
                share_at(w, position));
  }
  void write_share(Worker& w, Snapshot copy, CheckpointFact fact) {
    fact.parameters = copy.model.digest();
    if (fact.parameters != w.made) {  // damaged since its update: the next step's audit finds it
      if (w.steps == 0 || fact.position.step < w.steps) return;
      note("w{} is started again: its parameters are not what the last step made", w.number);
      throw Killed{700, false};
    }
    in(random_.between(10, 300), w, [this, &w, fact, copy] {
      reach(w.number, Point::before_share);
      store_.write_share(fact, copy);
      reach(w.number, Point::after_share);
      w.core->checkpoint_written(time(), fact);
    });
  }

  void act(Worker& w, const PublishCheckpoint& publish) {
    const CheckpointFact fact = publish.fact;
    in(random_.between(1, 60), w, [this, &w, fact] {
      reach(w.number, Point::before_publish);
      // This one, or a later one by another writer: then the shares may be gone already.
      const bool overtaken = store_.newest_step() >= fact.position.step;
      if (!overtaken) {
        auto whole = store_.whole(fact.position, fact.shares);
        checker_.publishes(w.number, fact,
                           whole ? std::optional(whole->model.digest()) : std::nullopt);
        note("w{} publishes the checkpoint of step {}", w.number, fact.position.step);
        ++outcome_.published;
        store_.publish(std::move(*whole));
      }
      reach(w.number, Point::after_publish);
      w.core->checkpoint_published(time(), fact.position);
    });
  }
  void act(Worker& w, const CheckpointsKept& kept) {
    checker_.keeps(w.number, kept);
    if (!kept.older) return;
    note("w{} keeps records after step {}", w.number, kept.older->step);
    w.journal->forget_until(kept.older->step);
    store_.forget_before(kept.older->step);
  }

  // Asked again until there is one that it can go on from.
  void act(Worker& w, const LoadCheckpoint& load) {
    note("w{} needs a checkpoint", w.number);
    in(random_.between(20, 200), w, [this, &w, load] {
      const Snapshot* newest = store_.newest_whole();
      if (newest == nullptr || (newest->model.position.step <= w.core->held().step &&
                                w.core->history().contains(newest->model.position)))
        return act(w, load);
      w.core->rewound(time(), load_newest(w));
    });
  }

  void act(Worker& w, const SendFetch& fetch) {
    const int from = w.number, to = fetch.source.identity.worker;
    send(from, to, [this, from, to, asked = fetch] {
      Worker& source = worker(to);
      Serving serving = source.core->serve(asked.fetch);
      if (serving.to_step >= 0 && source.log->end().step >= serving.to_step)
        serving.reply.records = source.log->after(asked.fetch.from, serving.to_step, kFetchMost);
      send(to, from, [this, from, identity = asked.source.identity, reply = serving.reply] {
        reach(from, Point::fetched);
        worker(from).core->fetched(time(), identity, reply);
      });
    });
  }
  void act(Worker& w, const Rewind& rewind) {
    ++outcome_.rewinds;
    if (w.number >= s_.workers) ++outcome_.newcomer_rewinds;
    if (rewind.rebuild) ++outcome_.rebuilds;
    note("w{} goes back from step {} to {}{}", w.number, w.log->end().step, rewind.to.step,
         rewind.rebuild ? ": its parameters are wrong" : "");
    in(random_.between(5, 150), w, [this, &w, rewind] {
      reach(w.number, Point::before_cut);
      if (rewind.to != w.log->end()) checker_.cut(w.number, rewind.to, w.log->end());
      w.log->cut_after(rewind.to);
      checker_.durable(w.number, w.log->sync());
      reach(w.number, Point::after_cut);
      const bool was_there = w.model->position == rewind.to;
      const Digest before = w.model->digest();
      std::optional<Recovered> state = replay(w, rewind.to);
      if (state && was_there) state->wrong_from = w.model->digest() == before ? 0 : rewind.to.step;
      w.core->rewound(time(), state ? std::move(*state) : load_newest(w));
    });
  }

  // --- coordinators and the store ---------------------------------------------------------------
  void start(Coordinator& c) {
    ++c.epoch;
    c.alive = true;
    c.reading = false;
    c.paused_until = 0;
    CoordinatorOptions options;
    options.run = "simulated";
    options.membership = membership_of(s_);
    options.membership.recover = recovering_;
    options.publish_timeout = milliseconds(1500);
    c.core = std::make_unique<CoordinatorCore>(options, Row{}, time());
    c.told.clear();
    c.news = 0;
    if (lease_ == c.number) c.core->lead(true, time());
    note("c{} starts{}", c.number, lease_ == c.number ? " and leads" : "");
    beats(c);
  }
  void kill(Coordinator& c, Milliseconds back_after) {
    if (!c.alive) return;
    note("c{} dies", c.number);
    c.alive = false;
    c.core.reset();
    // For ever away would only say that nothing changes without a coordinator.
    at(now_ + std::max<Milliseconds>(back_after, 100), -1, -1, [this, &c] {
      if (!c.alive) start(c);
    });
  }
  void beats(Coordinator& c) {
    in(kBeat + random_.below(10), c, [this, &c] {
      beat(c);
      beats(c);
    });
  }

  void pulsed(Coordinator& c, const Pulse& p) {
    const auto order = c.core->pulse(time(), p);
    if (order) tell(c, p.identity, p.state, *order);
    if (c.core->wants_beat() || c.core->wants_read()) beat(c);
  }
  void tell(Coordinator& c, const Identity& identity, WorkerState state, const Order& order) {
    c.told[identity.worker] = {identity, state, order};
    const int to = identity.worker, from = c.number;
    send(kFirstCoordinator + from, to, [this, to, from, identity, order] {
      Worker& w = worker(to);
      if (w.coordinator == from && w.core->identity() == identity) w.last_answer = now_;
      w.core->ordered(time(), order);
    });
    if (order.record) reach(kFirstCoordinator + c.number, Point::after_order);
  }
  // What should not wait for a worker's next pulse.
  void push(Coordinator& c) {
    if (c.news == c.core->news()) return;
    c.news = c.core->news();
    const auto told = c.told;
    for (const auto& [number, last] : told) {
      const auto order = c.core->order_again(time(), last.identity);
      if (order && is_urgent(*order, last.order, last.state))
        tell(c, last.identity, last.state, *order);
    }
  }

  // The store is as good as its answers: `rate` of them get lost, and what was asked may happen
  // late or not at all.
  void beat(Coordinator& c) {
    if (!c.core->leading()) return;
    if (c.core->wants_read()) {
      if (c.reading) return;
      c.reading = true;
      const bool lost = random_.chance(rate(Fault::Kind::store_trouble));
      in(lost ? 200 : random_.between(2, 20), c, [this, &c, lost] {
        c.reading = false;
        if (!lost) c.core->loaded(time(), stored_);
      });
      return;
    }
    const auto row = c.core->beat(time());
    push(c);
    if (!row) return;
    reach(kFirstCoordinator + c.number, Point::before_put);
    const std::int64_t attempt = ++attempts_;
    const double trouble = rate(Fault::Kind::store_trouble);
    const bool answered = !random_.chance(trouble);
    const bool happens = answered || random_.chance(0.7);
    const Milliseconds late = answered ? random_.between(1, 15) : random_.between(1, 900);
    if (happens) at(now_ + late, -1, -1, [this, row = *row, attempt] { put(row, attempt); });
    in(answered ? late + random_.between(1, 15) : 250, c, [this, &c, attempt, answered] {
      if (!answered) return c.core->unclear();
      if (results_[attempt]) {
        c.core->wrote(time());
        return push(c);
      }
      c.core->refused(time(), stored_);
    });
    reach(kFirstCoordinator + c.number, Point::after_put);
  }

  void put(Row row, std::int64_t attempt) {
    const bool taken = row.revision == stored_.revision || s_.mutations.unconditional_write;
    results_[attempt] = taken;
    if (!taken) return;
    row.revision = stored_.revision + 1;
    checker_.row(stored_, row);
    // Made shorter, it still has the steps that were there.
    if (row.steps != stored_.steps) there_already_ = furthest_;
    if (row.steps > 0 && row.commit.step > std::max(row.steps, there_already_))
      throw Violation("I15", fmt::format("step {} is committed, the run's last is {}",
                                         row.commit.step, row.steps));
    const std::int64_t old_term = stored_.term ? stored_.term->term : 0;
    if (row.term && row.term->term > old_term) {
      ++outcome_.terms;
      std::string who;
      for (const TermWorker& w : row.term->workers)
        who += fmt::format(" {}.{}", w.identity.worker, w.identity.incarnation);
      note("row: term {} starts at {} with{}, kept {}", row.term->term, row.term->start.step, who,
           row.term->kept.size());
    }
    if (row.commit.step > stored_.commit.step) {
      ++outcome_.commits;
      note("row: commit {}", row.commit.step);
    }
    stored_ = std::move(row);
    if (stored_.term) copies_.try_emplace(stored_.term->term, stored_);
  }

  // --- faults -----------------------------------------------------------------------------------
  void inject(const Fault& f) {
    note("fault: {}", describe(f));
    const bool at_coordinator = f.kind == Fault::Kind::coordinator_crash ||
                                f.kind == Fault::Kind::coordinator_crash_at ||
                                f.kind == Fault::Kind::coordinator_pause;
    require(!at_coordinator || f.who < s_.coordinators, "there is no coordinator {}", f.who);
    const bool known = f.who >= 0 && f.who < static_cast<int>(workers_.size());
    switch (f.kind) {
      case Fault::Kind::crash:
        if (known) kill(worker(f.who), f.lasts, false);
        break;
      case Fault::Kind::lose_disk:
        if (known) kill(worker(f.who), std::max<Milliseconds>(f.lasts, 100), true);
        break;
      case Fault::Kind::crash_at:
        triggers_.push_back({f.who, f.point, f.count, f.lasts});
        break;
      case Fault::Kind::pause:
        if (known) worker(f.who).paused_until = now_ + f.lasts;
        break;
      case Fault::Kind::slow:
        if (!known) break;
        worker(f.who).slow = f.count;
        worker(f.who).slow_until = now_ + f.lasts;
        break;
      case Fault::Kind::slow_sync:
        if (known) worker(f.who).syncs_from = now_ + f.lasts;
        break;
      case Fault::Kind::slow_apply:
        if (!known) break;
        worker(f.who).apply_takes = f.count;
        worker(f.who).slow_apply_until = now_ + f.lasts;
        break;
      case Fault::Kind::flip:
        if (!known || !worker(f.who).alive) break;
        worker(f.who).flipped = true;
        worker(f.who).model->flip(f.count);
        break;
      case Fault::Kind::damage_checkpoint:
        // The last one has nobody behind it who could make another.
        if (s_.steps == 0 || store_.newest_step() < stored_.steps) store_.damage_newest();
        break;
      case Fault::Kind::break_stream:
        if (!known || !worker(f.who).alive) break;
        worker(f.who).cut_off_until = now_ + f.lasts;
        break_stream(worker(f.who));
        break_links(worker(f.who), f.mask);
        break;
      case Fault::Kind::sync_error:
        if (known) worker(f.who).disk.fail_syncs(1);
        break;
      case Fault::Kind::disk_full:
        if (known) worker(f.who).disk.fill_up_after(f.count);
        break;
      case Fault::Kind::join:
        if (known && !worker(f.who).started) start(worker(f.who));
        break;
      case Fault::Kind::leave:
        if (known && worker(f.who).alive) {
          worker(f.who).leaving = true;
          at(now_, f.who, worker(f.who).epoch,
             [this, &w = worker(f.who)] { w.core->leave(time()); });
        }
        break;
      case Fault::Kind::coordinator_crash:
        kill(coordinator(f.who), f.lasts);
        break;
      case Fault::Kind::coordinator_crash_at:
        triggers_.push_back({kFirstCoordinator + f.who, f.point, f.count, f.lasts});
        break;
      case Fault::Kind::coordinator_pause:
        coordinator(f.who).paused_until = now_ + f.lasts;
        break;
      case Fault::Kind::other_length:
        for (const auto& w : workers_)
          if (s_.steps > 0 && (f.who < 0 || f.who == w->number)) change_length(*w, f);
        break;
      case Fault::Kind::row_lost:
        lose_row(f.count);
        break;
      case Fault::Kind::lease:
        give_lease(f.who, f.lasts);
        break;
      case Fault::Kind::partition:
      case Fault::Kind::cut_link:
      case Fault::Kind::loss:
      case Fault::Kind::doubles:
      case Fault::Kind::delays:
      case Fault::Kind::store_trouble:
        troubles_.push_back({f, now_ + f.lasts});
        break;
    }
  }

  void lose_row(int terms) {
    const std::int64_t term = stored_.term ? stored_.term->term : 0;
    const auto copy = copies_.find(term - terms);
    stored_ = copy == copies_.end() ? Row{} : copy->second;
    checker_.row_lost(stored_);
    recovering_ = true;
    for (Coordinator& c : coordinators_) kill(c, 200);
  }

  void change_length(Worker& w, const Fault& f) {
    w.steps = std::max<std::int64_t>(1, w.steps + f.count);
    if (w.alive) return kill(w, f.lasts, false);
    if (w.ended) start_later(w, f.lasts);
  }
  void start_later(Worker& w, Milliseconds after) {
    at(now_ + after, -1, -1, [this, &w] {
      if (!w.alive && !w.left && !w.for_good) start(w);
    });
  }

  void give_lease(int to, Milliseconds noticed_after) {
    if (to == lease_ || to >= s_.coordinators) return;
    Coordinator& old = coordinator(lease_);
    lease_ = to;
    if (coordinator(to).alive) coordinator(to).core->lead(true, time());
    at(now_ + noticed_after, -1, -1, [this, &old] {
      if (old.alive && lease_ != old.number) old.core->lead(false, time());
    });
  }

  // --- the run ----------------------------------------------------------------------------------
  void set_up() {
    coordinators_.resize(static_cast<std::size_t>(s_.coordinators));
    for (int i = 0; i < s_.coordinators; ++i) {
      coordinator(i).number = i;
      start(coordinator(i));
    }
    int count = s_.workers;
    for (const Fault& f : s_.faults)
      if (f.kind == Fault::Kind::join) count = std::max(count, f.who + 1);
    for (int i = 0; i < count; ++i) {
      workers_.push_back(std::make_unique<Worker>());
      worker(i).number = i;
      worker(i).steps = s_.steps;
    }
    for (int i = 0; i < s_.workers; ++i) {
      const auto when = random_.between(0, 200);
      at(when, -1, -1, [this, i] {
        if (!worker(i).alive) start(worker(i));
      });
    }
    for (const Fault& f : s_.faults) at(f.at, -1, -1, [this, f] { inject(f); });
    at(s_.fault_time, -1, -1, [this] { begin_quiet(); });
  }

  // All that can be undone is: who is dead for good stays dead, unless then nobody could go on.
  void begin_quiet() {
    note("quiet");
    triggers_.clear();
    troubles_.clear();
    for (Coordinator& c : coordinators_) c.paused_until = std::min(c.paused_until, now_);
    for (const auto& w : workers_) {
      w->paused_until = std::min(w->paused_until, now_);
      w->slow_until = w->syncs_from = w->slow_apply_until = w->cut_off_until = 0;
    }
    // "min_workers can reach each other", and C3 needs one that has the commit.
    int able = 0;
    bool committed = false;
    for (const auto& w : workers_) {
      if (!w->started || w->left || w->leaving || (w->for_good && !s_.revived)) continue;
      ++able;
      committed = committed || checker_.has_commit(w->number);
      if (!w->for_good) continue;
      w->for_good = false;
      if (!w->alive) start(*w);
    }
    anybody_ = able >= std::max(1, s_.min_workers) && committed;
    quiet_commit_ = stored_.commit.step;
    look(now_ + s_.quiet_time);
  }

  // I13 and the end of I9, asked again and again until they hold.
  void look(Milliseconds deadline) {
    const std::string missing = lacks();
    if (missing.empty()) {
      finished_ = true;
      outcome_.recovery = now_ - s_.fault_time;
      return;
    }
    if (now_ >= deadline)
      throw Violation("I13", fmt::format("{} ms after the faults: {}; coordinator: {}",
                                         s_.quiet_time, missing, coordinator_says()));
    at(now_ + 250, -1, -1, [this, deadline] { look(deadline); });
  }

  std::string coordinator_says() {
    Coordinator& c = coordinator(lease_);
    if (!c.alive) return "none";
    const CoordinatorStatus status = c.core->status(time());
    return fmt::format("term {}, {}: {}", status.term, status.decision, status.reason);
  }

  std::string lacks() {
    if (!anybody_) return {};
    for (const auto& w : workers_)
      if (w->ended && !w->left && w->steps != stored_.steps) {  // the run goes on to another step
        w->steps = stored_.steps;
        w->ended = false;
        start_later(*w, 100);
      }
    for (const auto& w : workers_) {
      if (!w->started || w->left || w->for_good) continue;
      if (s_.steps > 0) {
        if (w->leaving) return fmt::format("worker {} has not left", w->number);
        if (w->ended && w->steps == stored_.steps) continue;
        return fmt::format("worker {} has not ended{}", w->number,
                           w->alive ? ": " + w->core->stage() : "");
      }
      if (!w->alive) return fmt::format("worker {} is not back", w->number);
      const std::int64_t term = stored_.term ? stored_.term->term : 0;
      if (w->leaving) return fmt::format("worker {} has not left", w->number);
      if (w->core->state() != WorkerState::voting || w->core->term() != term)
        return fmt::format("worker {} is {} in term {} of {}: {}", w->number,
                           to_string(w->core->state()), w->core->term(), term, w->core->stage());
    }
    if (s_.steps > 0) return {};
    if (stored_.commit.step < quiet_commit_ + 3)
      return fmt::format("commit went from {} to {}", quiet_commit_, stored_.commit.step);
    const bool differ =
        std::ranges::any_of(workers_, [](const auto& w) { return w->alive && w->flipped; });
    if (differ && !checker_.tainted() && stored_.term && stored_.term->workers.size() > 1)
      return "a worker's parameters are still wrong";
    if (s_.checkpoint_every > 0 && !differ && !checker_.tainted() &&
        (stored_.checkpoints.empty() || stored_.checkpoints.back().position.step <= quiet_commit_))
      return "no checkpoint has been published";
    for (const auto& w : workers_)
      if (w->alive && checker_.unused_samples(w->core->held()) > unused_allowed())
        return fmt::format("at step {} {} samples are still unused", w->core->held().step,
                           checker_.unused_samples(w->core->held()));
    return {};
  }
  // A poll that closes at the deadline leaves the late ones' for the next steps.
  std::int64_t unused_allowed() const { return s_.quorum > 0 ? 2 * s_.per_voter : 0; }

  const Scenario& s_;
  bool traced_;
  Random random_;
  Checker checker_;
  Outcome outcome_;
  Milliseconds now_ = 0;
  std::int64_t order_ = 0, attempts_ = 0;
  std::priority_queue<Event, std::vector<Event>, Later> queue_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Coordinator> coordinators_;
  SharedStore store_;
  std::int64_t furthest_ = 0;       // step that anybody ever held
  Milliseconds moved_at_ = 0;       // when that was reached
  std::int64_t there_already_ = 0;  // when the run's length was set
  Row stored_;
  std::map<std::int64_t, bool> results_;
  std::map<std::int64_t, Row> copies_;  // of the row, as each term began
  bool recovering_ = false;
  int lease_ = 0;
  std::vector<Trouble> troubles_;
  std::vector<Trigger> triggers_;
  bool finished_ = false, anybody_ = true;
  std::int64_t quiet_commit_ = 0;
};

}  // namespace

Outcome run(const Scenario& scenario, bool traced) {
  return World(scenario, traced).run();
}

Scenario shrink(const Scenario& failing, const std::string& invariant) {
  Scenario smallest = failing;
  for (bool again = true; again;) {
    again = false;
    for (std::size_t i = smallest.faults.size(); i-- > 0;) {
      Scenario smaller = smallest;
      smaller.faults.erase(smaller.faults.begin() + static_cast<long>(i));
      if (run(smaller).invariant != invariant) continue;
      smallest = std::move(smaller);
      again = true;
    }
  }
  return smallest;
}

std::string report(const Scenario& scenario, const Outcome& outcome, std::size_t trace_lines) {
  std::string text = fmt::format(
      "seed {}: {} at {} ms, after {} events\n{}\n{} workers, min {}, quorum {}, {} coordinators\n",
      scenario.seed, outcome.invariant.value_or("nothing broken"), outcome.when, outcome.events,
      outcome.what, scenario.workers, scenario.min_workers, scenario.quorum, scenario.coordinators);
  for (const Fault& f : scenario.faults) text += "  " + describe(f) + "\n";
  const std::size_t first =
      outcome.trace.size() > trace_lines ? outcome.trace.size() - trace_lines : 0;
  for (std::size_t i = first; i < outcome.trace.size(); ++i) text += outcome.trace[i] + "\n";
  return text;
}

}  // namespace ballot::sim
