// What workers and the coordinator say to each other, and the coordinator's row: plain values,
// without a socket or a clock. The failure protocol is docs/protocol.md; rule numbers (R1, C2, ...)
// are its.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/digest.h"
#include "runtime/protocol/position.h"
#include "runtime/protocol/sample_range.h"

namespace ballot {

// A worker keeps its number for the whole run; every start of its process, and every time it was
// out of a term, makes a new incarnation, given by the coordinator at Join.
struct Identity {
  std::int32_t worker = 0;
  std::int64_t incarnation = 0;
  auto operator<=>(const Identity&) const = default;
};

struct TermWorker {
  Identity identity;
  std::string address;     // where its peers reach it
  std::int32_t voter = 0;  // ascending without holes in the order of the workers
  auto operator<=>(const TermWorker&) const = default;
};

struct TermRecord {
  std::int64_t term = 0;
  std::vector<TermWorker> workers;    // ascending by worker number
  Position start;                     // every worker's history begins the term here
  std::vector<std::int32_t> sources;  // workers that have `start`
  std::vector<VoterRange> kept;       // R6: ranges that voters keep for the first step of the term
  std::int32_t copies = 0;            // journal copies of each chunk; 0: all
  std::int32_t quorum = 0;            // ballots that close a poll at the deadline; 0: all
  Digest config;                      // of the run's configuration
  auto operator<=>(const TermRecord&) const = default;
  const TermWorker* find(std::int32_t worker) const;
};

// One share of a checkpoint (R10): what one worker has written and fsynced, in the folder that all
// workers share. Every worker of the term that decided the step writes one, so that position and
// shares name each other. In Order.publish it is the whole checkpoint, with the files of all
// shares; in the row the whole one, without them (they are in its manifest).
struct CheckpointFact {
  Position position;
  Digest parameters;               // of all of them, whatever this share holds
  std::vector<std::string> files;  // inside the checkpoint's folder
  std::int32_t share = 0, shares = 1;
  auto operator<=>(const CheckpointFact&) const = default;
};

// The digest of all parameters after a position, for audits.
struct ParametersAt {
  Position position;
  Digest digest;
  auto operator<=>(const ParametersAt&) const = default;
};

// A worker that was sent away, by agreement or by an operator: this incarnation of it, until its
// process is started anew.
struct SentAwayWorker {
  std::int64_t incarnation = 0;
  std::string reason;
  auto operator<=>(const SentAwayWorker&) const = default;
};

// All that a coordinator has to keep. Written only on condition of its revision (C1).
struct Row {
  std::optional<TermRecord> term;  // none before the first
  Position commit;
  std::vector<CheckpointFact> checkpoints;            // the last two published, the older first
  std::map<std::int32_t, std::int64_t> incarnations;  // the newest given, by worker
  std::int64_t steps = 0;                             // the run's last step; 0: nobody has said
  std::map<std::int32_t, SentAwayWorker> sent_away;   // by worker
  std::int64_t revision = 0;
};

struct Join {
  std::string run;
  std::int32_t worker = -1;  // -1: any
  std::uint64_t nonce = 0;   // drawn for this Join: asking again with it gets the same answer
  std::string address;
  Digest config;
  std::string version;
  std::int64_t steps = 0;  // after which it takes the run to have ended; 0: it does not say
  bool again = false;      // by a process that was in the run already: not one started anew
};

enum class WorkerState { joining, voting, sealed };
const char* to_string(WorkerState state);

struct Suspicion {
  std::int32_t worker = 0;
  std::string reason;
  auto operator<=>(const Suspicion&) const = default;
};

// Of ballots, over the last steps (runtime/agreement_watch.h): every worker of a term that has seen
// the same steps says the same.
struct VoterJudgement {
  // The share of compared elements on which its own ballots had the sign of the others' majority;
  // negative: not known.
  double agreement = -1;
  std::vector<Suspicion> accused;  // whose ballots are at chance, where they are to be sent away
  bool operator==(const VoterJudgement&) const = default;
};

// What replay said of a worker's parameters when it rebuilt them: the first step after which they
// were wrong; 0: they were right; -1: not known.
struct Rebuilt {
  Position at;
  std::int64_t wrong_from = -1;
  auto operator<=>(const Rebuilt&) const = default;
};

// The last step of the run's record, as the worker that writes it tells it: for who looks at the
// run, the protocol reads none of it.
struct RecordedStep {
  std::int64_t step = 0;
  std::optional<double> loss;    // nats per token; none: not finite
  double tokens_per_second = 0;  // of all workers
  std::int64_t tokens_total = 0;
  std::int64_t bytes_sent = 0, fp32_bytes = 0;  // by that worker in that step; what fp32 would have
  std::optional<double> ties;                   // share of the voted elements
  std::optional<double> agreement;              // of a voter with the others, their mean
  bool operator==(const RecordedStep&) const = default;
};

struct Pulse {
  Identity identity;
  std::int64_t sequence = 0;  // rises within an incarnation
  WorkerState state = WorkerState::joining;
  std::string address;  // where its peers reach it
  // voting, sealed: its term. joining: the term of the peer that vouched for `held`; 0: nobody has.
  std::int64_t term = 0;
  Position held, durable;
  std::int64_t held_term = 0;  // of the record of `held`: what C2 compares first
  std::int64_t applied = 0;    // steps applied to the parameters; held.step when it keeps up
  struct Pending {
    Position base;
    SampleRange samples;
    auto operator<=>(const Pending&) const = default;
  };
  std::optional<Pending> pending;  // the kept ballot (R4)
  Position told;                   // the commit it was last told
  bool has_commit = false;         // its history contains `told`
  bool has_start = false;          // its history contains the start of `term`
  bool ready = false;              // joining: near enough and durable (R8)
  bool leaving = false;
  std::vector<Suspicion> suspects;
  std::string stage;  // for status: what it is doing
  // Voting, sealed: its shares of the newest checkpoints on its history that are not published yet,
  // ascending.
  std::vector<CheckpointFact> checkpoints;
  Position published;  // the newest that it was named to publish, and has
  // After what it applied last, and at the latest multiples of 4, 16, 64, ... steps, so that
  // workers a few steps apart have some in common. Ascending by step.
  std::vector<ParametersAt> parameters;
  VoterJudgement judgement;
  std::optional<Rebuilt> rebuilt;  // before it became this incarnation
  std::optional<RecordedStep> recorded;
};

// A peer whose records may be fetched.
struct Source {
  Identity identity;
  std::string address;
  std::int64_t step = 0;  // that it holds
  auto operator<=>(const Source&) const = default;
};

struct Order {
  std::int64_t incarnation = 0;  // of the pulse that it answers: others are not for me
  std::int64_t term = 0;
  std::optional<TermRecord> record;     // when newer than the pulse's term
  std::optional<std::int64_t> seal_at;  // in this `term`: a step, or 0: now
  std::int64_t head = 0;                // the furthest step that a worker of the term holds
  std::vector<Source> sources;          // to a joining worker: whom to fetch from
  Position commit;
  // To the one worker that is named for it, until its pulse says `published`.
  std::optional<CheckpointFact> publish;
  std::vector<Position> checkpoints;  // of the row, the older first
  std::int64_t steps = 0;             // the run's last; 0: nobody has said
  bool rejoin = false;                // fenced: this incarnation is out, join again
  bool rewind = false;                // its parameters are wrong: out, rebuild them, join again
  bool dismissed = false;             // to a leaving worker: nothing waits for it any more
  std::string reason;  // why `record`'s term began, for people; empty: not known. Not the core's
};

}  // namespace ballot
