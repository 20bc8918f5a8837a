// Brings an elastic worker's replica and journal to a position of one history: when its process
// starts, and when it has to go back.
//
// A position is reached from the newest whole checkpoint at or before it that is on the same
// history (or from the starting model), by the journal's records. What the live run left of each
// step's digest says whether its parameters were right: going back they have to be; where it starts
// or rebuilds, what was wrong is said and put right, and the others of the run compare what it has
// then. On the computing thread.
#pragma once

#include <optional>
#include <string>

#include "runtime/elastic/elastic_journal.h"
#include "runtime/elastic/replica.h"
#include "runtime/protocol/worker_core.h"  // Recovered

namespace ballot {

class Recovery {
 public:
  // All must outlive it. `voter` says whose momentum is taken from checkpoints.
  Recovery(Replica& replica, ElasticJournal& journal, std::string run_folder, int voter);

  // As far as checkpoints and the own journal lead.
  Recovered start();
  // The journal is cut after `to`, durably, and the replica stands there, or, where nothing that is
  // kept leads there any more, at the newest checkpoint. `rebuild`: also if it stands there
  // already.
  Recovered rewind(const Position& to, bool rebuild);
  // At the newest whole checkpoint of the run's folder that is not a part of `history` already, the
  // journal begun anew there; none: there is none.
  std::optional<Recovered> load_newest(const History& history);
  // At this one.
  Recovered load(const std::string& checkpoint);
  // At one that was copied from a peer to `folder`, which becomes one of the run's own.
  Recovered adopt(const std::string& folder);

 private:
  std::optional<Position> position_of(const std::string& checkpoint) const;
  // The newest whole one at or before `most_step` that the journal leads on from.
  std::optional<std::string> find_base(std::int64_t most_step);
  // `rebuild`: the digests that the journal holds may be those of wrong parameters; they are put
  // right, and Recovered says from which step on.
  Recovered follow_journal(std::int64_t to_step, bool rebuild = false);

  Replica& replica_;
  ElasticJournal& journal_;
  const std::string run_folder_;
  const int voter_;
};

// A replica's digest of all parameters, as the protocol's messages have it.
Digest wide(std::uint64_t parameters);

}  // namespace ballot
