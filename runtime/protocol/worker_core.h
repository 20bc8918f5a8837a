// A worker's part of the failure protocol without sockets, threads and clocks: events in, actions
// out (R1-R10 of docs/protocol.md).
//
// Every call tells it something that happened, with the time; afterwards take() gives what has to
// be done, in order. It keeps what the rules speak of (term, history, ledger, the kept ballot,
// polls, chunks of verdicts) and none of the numbers: the driver has the parameters, the ballot's
// bits, the journal and the links. Promises hold between calls: once pulse() has said "sealed",
// nothing that arrives changes what is held (R1).
//
// A driver's duties. Actions are done in order. HoldRecord: append to the journal, then apply; the
// process ends if either fails. ComputeBallot may take its time: ballot_ready() ends it, and
// whatever is asked for later replaces it; pieces may be sent early, while the term lasts.
// DecideChunk may run beside: decided() ends it. OpenLinks: say Hello to every other worker of the
// term until each has accepted (not_yet: again soon) and tell link_opened() each time; frames go
// nowhere before. CloseLinks ends all streams. Links may be reopened at any time: what matters is
// sent again. AskToJoin: Join until joined(). Rewind: load the newest checkpoint at or before the
// position, cut the journal after it, sync what is left, replay up to it, then rewound(); also
// where the parameters are at that position already (`rebuild`: they are not to be trusted).
//
// Checkpoints (R10): at steps that are a pure function of the step number, every worker of the term
// that decided the step copies the state, with the ledger of its HoldRecord, writes and fsyncs its
// share into a folder that all share, under a name that is not final, and then tells
// checkpoint_written(). PublishCheckpoint: manifest over fact.files, fsync, rename, fsync of the
// parent, `latest` (never back), then checkpoint_published(). Another may have done it already or
// be at it, or a later one may be there and the shares gone: that must do no harm, and is published
// too; on an error checkpoint_failed(). Shares of a step are deleted only once a later one is
// published. CheckpointsKept: records up to `older` and checkpoints before it may be deleted.
//
// tick() at next_deadline(); pulse() every heartbeat and on PulseNow; its answer into ordered().
//
// Not for several threads at once.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "core/clock.h"
#include "runtime/protocol/history.h"
#include "runtime/protocol/ledger.h"
#include "runtime/protocol/messages.h"
#include "runtime/protocol/mutations.h"
#include "runtime/protocol/worker_messages.h"

namespace ballot {

struct WorkerOptions {
  std::string run;
  std::string address;         // where peers reach it
  std::int64_t per_voter = 1;  // samples a voter draws per step
  // The run ends there: a seal that is ordered for a later step is due once it is held.
  std::int64_t last_step = std::numeric_limits<std::int64_t>::max();
  std::int64_t join_gap = 2;       // ready when so near the head (R8); doubled by each try in vain
  std::int64_t ready_backlog = 8;  // ... and with no more to apply
  Duration exchange_timeout = std::chrono::minutes(5);    // for the others, once its ballot is cast
  Duration late_grace = std::chrono::seconds(5);          // after the quorum, for the other ballots
  Duration fetch_timeout = std::chrono::minutes(1);       // for one answer
  Duration fetch_pause = std::chrono::milliseconds(200);  // before asking in vain again
  Duration publish_pause = std::chrono::seconds(10);      // before a checkpoint is tried again
  ProtocolMutations mutations = {};                       // the simulation's
};

// What the driver loaded: the chain up to what the parameters are, and the ledger there.
struct Recovered {
  History history;
  Ledger ledger;
  std::optional<Digest> parameters = {};  // their digest, if it is known
  std::int64_t wrong_from = -1;           // of what was rebuilt: as in Rebuilt
};

struct PolledBallot {
  std::int32_t voter = 0;
  std::shared_ptr<const BallotData> data;  // null: this worker's own
};

struct SendBallot {  // the kept ballot's bits of this chunk
  Identity to;
  std::int64_t term = 0;
  BallotFrame frame;  // without data
};
struct SendVerdict {
  Identity to;
  std::int64_t term = 0;
  std::shared_ptr<const VerdictFrame> frame;
};
struct ComputeBallot {
  std::int64_t step = 0;
  Position base;
  SampleRange samples;
  std::int32_t voter = 0;
};
struct DecideChunk {
  std::int64_t term = 0;
  std::int64_t step = 0;
  std::int32_t chunk = 0, chunks = 0;
  Position base;
  std::vector<PolledBallot> ballots;  // ascending by voter
};
struct HoldRecord {
  std::shared_ptr<const Record> record;
  Position position;
  Ledger ledger;  // after it: belongs into a checkpoint of this position
  bool fetched = false;
  std::vector<ChunkFigures> figures = {};  // by chunk; none of a fetched one
};
struct SendFetch {
  Source source;
  Fetch fetch;
};
struct OpenLinks {
  TermRecord record;
};
struct CloseLinks {};
struct Rewind {
  Position to;
  bool rebuild = false;  // what it has at `to` is wrong
};
// No peer keeps the records after what it holds, or none that it has in common with them: load a
// checkpoint, from wherever there is one, begin the journal anew at it, then rewound().
struct LoadCheckpoint {
  Source source;  // who said so; none (Identity{}): the run has ended, with a checkpoint
};
struct AskToJoin {};
struct PulseNow {};
struct Left {};  // it was leaving, and nothing waits for it any more
// The run's last step is another than this worker's: it has voted in no step beyond its own or the
// run's, and has no place in it. The process ends.
struct OtherLength {
  std::int64_t steps = 0;  // the run's
};
struct PublishCheckpoint {
  CheckpointFact fact;  // with the files of all shares
};
// The row's checkpoints have moved on; what this worker holds goes on from `older`, durably.
struct CheckpointsKept {
  std::optional<Position> older;  // none while there is only one: nothing may be deleted
  Position newest;
};

using Action = std::variant<SendBallot, SendVerdict, ComputeBallot, DecideChunk, HoldRecord,
                            SendFetch, OpenLinks, CloseLinks, Rewind, LoadCheckpoint, AskToJoin,
                            PulseNow, Left, OtherLength, PublishCheckpoint, CheckpointsKept>;

// What it may serve of its history; the driver adds the records (from, to].
struct Serving {
  FetchReply reply;           // without records
  std::int64_t to_step = -1;  // -1: none
};

class WorkerCore {
 public:
  // Not in any term. Its first action is AskToJoin. Everything in `state` must be durable.
  WorkerCore(WorkerOptions options, Recovered state);

  // The coordinator.
  void joined(TimePoint now, const Identity& identity);
  Pulse pulse(TimePoint now);
  void ordered(TimePoint now, const Order& order);
  void leave(TimePoint now);

  // Peers.
  LinkAnswer answer(const Hello& hello) const;
  void link_opened(TimePoint now, const Identity& peer);
  void peer_lost(TimePoint now, const Identity& peer, const std::string& reason);
  void ballot(TimePoint now, const Hello& from, BallotFrame frame);
  void verdict(TimePoint now, const Hello& from, VerdictFrame frame);
  Serving serve(const Fetch& fetch) const;
  void fetched(TimePoint now, const Identity& source, const FetchReply& reply);
  void fetch_failed(TimePoint now, const Identity& source);

  // The driver's own work.
  void ballot_ready(TimePoint now, std::int64_t step, const Position& base,
                    const SampleRange& samples);
  void decided(TimePoint now, std::int64_t term, std::int64_t step, ChunkVerdict verdict);
  void applied(const Position& position);
  void applied(const Position& position, const Digest& parameters);
  // What its pulses say of ballots, its own and others', as it has seen them lately.
  void judged(VoterJudgement judgement);
  void synced(const Position& position);
  void checkpoint_written(TimePoint now, CheckpointFact fact);
  void checkpoint_published(TimePoint now, const Position& position);
  // It could not be published now: asked for it still, after publish_pause, it is tried again.
  void checkpoint_failed(TimePoint now, const Position& position);
  void rewound(TimePoint now, Recovered state);
  // Records up to this committed step are no longer kept here: they are served to nobody.
  void forget_before(std::int64_t step);

  void tick(TimePoint now);
  std::optional<TimePoint> next_deadline() const;
  std::vector<Action> take();

  // What is, for status, metrics and tests.
  WorkerState state() const { return state_; }
  std::int64_t term() const { return record_ ? record_->term : 0; }
  const std::optional<TermRecord>& record() const { return record_; }
  const std::optional<Identity>& identity() const { return identity_; }
  Position held() const { return history_.last(); }
  const Position& durable() const { return durable_; }
  const Position& told() const { return told_; }
  const History& history() const { return history_; }
  const Ledger& ledger() const { return ledger_; }
  // The row's, as far as it was told: the older first.
  const std::vector<Position>& checkpoints() const { return checkpoints_; }
  bool has_start() const {
    return record_ && (reached_start_ || history_.contains(record_->start));
  }
  bool ready() const;
  // The last step is applied and committed, and its checkpoint published: nothing is left to do.
  bool has_ended() const;
  // What it waits for, in words.
  std::string stage() const;

 private:
  struct Kept {
    std::int64_t step = 0;
    Position base;
    SampleRange samples;
    bool ready = false;
  };
  struct Poll {
    std::map<std::int32_t, BallotFrame> ballots;  // by voter
    bool deciding = false;                        // closed: what comes now is late
    Position base;                                // then
    std::vector<std::uint64_t> counted;
    std::optional<TimePoint> closes;
  };
  struct Fetching {
    Source source;
    Fetch fetch;
    TimePoint deadline;
  };

  bool accepting() const;
  bool seal_is_due() const;
  bool fenced(const Hello& from) const;
  const TermWorker& me() const;
  std::int32_t my_chunk() const;
  const Identity& owner_of(std::int32_t chunk) const;
  std::int64_t front() const;
  std::vector<VoterRange> draw() const;
  void enter(TimePoint now, const TermRecord& record);
  void go_out();
  void seal(std::string reason, std::vector<Suspicion> suspects);
  void begin_step(TimePoint now);
  void cast(TimePoint now);
  void send_ballot(const Identity& to, std::int32_t chunk);
  void look_at_poll(TimePoint now);
  void decide(std::int64_t step, Poll& poll, const Position& base);
  void try_hold(TimePoint now);
  void hold(std::shared_ptr<const Record> record, const Position& position, bool fetched,
            std::vector<ChunkFigures> figures = {});
  void give_up_waiting(TimePoint now);
  void ask_to_join();
  void look_for_records(TimePoint now);
  std::int64_t ready_gap() const;
  void not_vouched();
  void look_if_ready();
  bool ended_without_me() const;
  bool has_other_length(const Order& order);
  void on_conflict(std::int64_t common_step);
  void take_checkpoints(const std::vector<Position>& checkpoints);
  void look_at_checkpoints();
  void note_parameters(const Position& position, const Digest& parameters);
  void act(Action action) { actions_.push_back(std::move(action)); }

  WorkerOptions options_;
  History history_;
  Ledger ledger_;
  Position durable_, told_;
  std::int64_t applied_ = 0;

  WorkerState state_ = WorkerState::joining;
  std::optional<Identity> identity_;  // none: asking for one
  std::optional<TermRecord> record_;  // of the term it is in
  bool reached_start_ = false;        // of that term, though perhaps forgotten since
  std::int64_t newest_term_ = 0;      // that it was in or heard of: it enters none before
  std::int64_t sequence_ = 0;
  bool leaving_ = false;
  std::string seal_reason_;
  std::vector<Suspicion> suspects_;
  std::optional<std::int64_t> seal_at_;

  std::optional<Kept> kept_;
  bool cast_ = false;                   // in this term, for the step after the one it holds
  std::map<std::int64_t, Poll> polls_;  // by step
  std::map<std::int64_t, std::map<std::int32_t, VerdictFrame>> chunks_;  // by step, chunk
  std::map<std::int64_t, std::shared_ptr<const VerdictFrame>> decided_;  // its own, by step
  std::set<std::int32_t> open_;                                          // links, by worker
  std::optional<TimePoint> exchange_deadline_;

  std::vector<Source> sources_;
  std::size_t next_source_ = 0;
  std::optional<Fetching> fetching_;
  std::optional<TimePoint> fetch_again_;
  std::optional<Position> probe_;  // where it looks for the step at which two histories part
  // An answer to an earlier ask may come twice: who has gone out since is not that any more.
  bool asks_ = false;
  std::int64_t head_ = 0, coordinator_term_ = 0;
  std::int64_t vouched_term_ = 0;   // of the peer that vouched for what is held
  std::size_t failed_sources_ = 0;  // in a row
  // Since it first had all that a source serves (R8): the commit then, which has to be durable
  // here, and how often the head had gone on meanwhile.
  std::optional<std::int64_t> caught_up_at_;
  int tries_ = 0;
  bool was_ready_ = false;
  std::optional<std::int64_t> rewind_when_out_;  // step
  std::optional<Source> load_when_out_;
  bool rewinding_ = false;  // or loading a checkpoint
  bool rebuild_when_out_ = false;
  bool rebuilding_ = false;                   // is what it goes back for
  std::optional<Rebuilt> rebuilt_;            // until it is out again
  std::optional<std::int64_t> other_length_;  // of the run, as the driver was told

  std::vector<CheckpointFact> written_;  // ascending; not published, as far as it knows
  Position published_;                   // by itself
  std::optional<TimePoint> publish_again_;
  std::optional<Position> publishing_;    // was asked for, and has not ended
  std::vector<Position> checkpoints_;     // the row's, the older first
  std::optional<Position> kept_told_;     // the newest that the driver was told of
  std::vector<ParametersAt> parameters_;  // ascending
  VoterJudgement judgement_;

  std::vector<Action> actions_;
};

}  // namespace ballot
