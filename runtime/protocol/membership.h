// The membership rule: who is in the next term, when it begins and why (C2-C5 of docs/protocol.md).
//
// next() is a pure function: tests move `now` and read the decision with its reason. It opens no
// socket and reads no clock; the coordinator (coordinator_core.h) does what it decides.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/clock.h"
#include "runtime/protocol/messages.h"
#include "runtime/protocol/mutations.h"

namespace ballot {

struct MembershipOptions {
  std::int32_t min_workers = 1;  // a term has at least so many
  // The first term waits for so many, less those that were sent away before it.
  std::int32_t start_workers = 1;
  std::int32_t copies = 0;       // journal copies of each chunk; 0: all
  std::int32_t quorum = 0;       // ballots that close a poll at the deadline; 0: all
  std::int64_t max_lag = 16;     // unapplied steps after which a worker counts as silent
  Duration heartbeat_timeout = std::chrono::seconds(10);  // without a pulse: silent
  Duration seal_timeout = std::chrono::seconds(10);       // for sealed pulses once ordered now
  Duration planned_timeout = std::chrono::minutes(10);    // then a planned seal becomes "now"
  Duration cold_wait = std::chrono::minutes(2);  // C3: for the workers that have not come back
  // C4: within it, a second change of term for suspicions sends somebody away.
  Duration suspicion_window = std::chrono::minutes(10);
  // A worker whose stream of pulses has broken, and was not opened again for so long, counts as
  // silent once a sealed worker suspects it too, and after kLongBreak times as long once anybody
  // waits for it.
  Duration stream_grace = std::chrono::milliseconds(500);
  // Explicit, logged: begin from the best history although nobody has the commit; and go on from a
  // row that is older than the workers' terms (C5).
  bool without_commit = false;
  bool recover = false;
  ProtocolMutations mutations = {};  // the simulation's
};

struct Heard {
  Pulse pulse;
  TimePoint at;
};

// What a coordinator knows besides its row: volatile, rebuilt from pulses (C5).
struct View {
  TimePoint started;                    // since when it listens
  std::map<std::int32_t, Heard> heard;  // by worker: the newest by (incarnation, sequence)
  // Pulses that know more than the row (a later term, commit or incarnation): no part of `heard`.
  std::map<std::int32_t, Heard> ahead;
  struct Broken {  // a stream of pulses, since it last pulsed
    Identity identity;
    TimePoint since;
  };
  std::map<std::int32_t, Broken> broken;
  struct Seal {
    std::int64_t at = 0;  // a step; 0: now
    TimePoint since;
    std::string reason;
  };
  std::optional<Seal> seal;                      // ordered in the row's term
  std::optional<TimePoint> last_pardoned;        // C4: when suspicions last changed the term
  std::map<std::int32_t, std::string> expelled;  // by an operator or an audit, with the reason
  std::set<std::int32_t> sent_away;              // of them: will not come back by themselves
};

struct Decision {
  enum class Kind {
    steady,  // `commit` may be newer than the row's
    seal,    // order it, at `seal_at`
    wait,    // for what `reason` says; `commit` as in steady
    term,    // write `record`
  };
  Kind kind = Kind::steady;
  std::string reason;
  Position commit;
  std::int64_t seal_at = 0;
  std::optional<TermRecord> record;
  bool suspicions = false;  // term: C4's "only a new term" has been used up
};
const char* to_string(Decision::Kind kind);

// The last step is committed and its checkpoint published: no term is needed any more.
bool has_ended(const Row& row);

Decision next(TimePoint now, const Row& row, const View& view, const MembershipOptions& options);

// Whether the worker of the row's term pulsed as such, within the heartbeat timeout (or the
// coordinator is too young to say, C5), and is not cut off.
bool is_live(TimePoint now, const TermWorker& worker, const Row& row, const View& view,
             const MembershipOptions& options);
inline constexpr int kLongBreak = 2;
// Its stream of pulses broke stream_grace ago, and a sealed worker of the term suspects it; or
// kLongBreak times stream_grace ago, and somebody waits: a worker of the term is sealed, or all are
// to seal now.
bool is_cut_off(TimePoint now, const TermWorker& worker, const Row& row, const View& view,
                const MembershipOptions& options);

}  // namespace ballot
