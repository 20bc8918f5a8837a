// The invariants I1-I14 of docs/protocol.md as predicates over everything that the simulation has
// seen: it knows what no worker can know. A broken one is a Violation.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/protocol/coordinator_core.h"
#include "runtime/protocol/worker_core.h"
#include "tests/simulation/toy_model.h"

namespace ballot::sim {

struct Violation : std::runtime_error {
  Violation(std::string which, const std::string& what)
      : std::runtime_error(which + ": " + what), invariant(std::move(which)) {}
  std::string invariant;
};

class Checker {
 public:
  Checker(const Position& genesis, std::int64_t per_voter);

  // A frame reached a worker's core over a stream: of a ballot, whose data nobody else has, or of a
  // verdict, whose bits lie there and are only moved from then on.
  void delivered(int worker, const void* data, const Hello& hello);
  // An owner decided: `ballots` as they truly are, beside the decision's own words.
  void decided(const WorkerCore& core, const DecideChunk& decision,
               const std::vector<std::shared_ptr<const ToyBallot>>& ballots,
               const ChunkVerdict& verdict);
  void computes(const WorkerCore& core);
  // Before the record is applied, and after.
  void holds(const WorkerCore& core, const HoldRecord& hold);
  void applied(const Position& position, const Digest& state);
  bool is_right(const Position& position, const Digest& state) const;
  // I11: a worker gives a whole checkpoint its final name; `state` is what is in it, if all its
  // shares are there.
  void publishes(int worker, const CheckpointFact& fact, const std::optional<Digest>& state);
  void loads(int worker, const Position& position, const Digest& state) const;
  // I12: it deletes what lies before.
  void keeps(int worker, const CheckpointsKept& kept) const;
  // A wrong replica that no majority could judge has been published: what is right from here on
  // nobody knows.
  bool tainted() const { return tainted_; }
  // I15: its process ends well at the run's last step, with its parameters, if they are not known
  // to be wrong.
  void ends(int worker, std::int64_t steps, const Position& position,
            const std::optional<Digest>& state) const;
  void sealed_pulse(int worker, const Pulse& pulse);
  // After every event that could have changed it; `all` are the cores that are alive.
  void worker(int worker, const WorkerCore& core, const std::vector<const WorkerCore*>& all);
  void worker_died(int worker);

  // Disks: what is durable on each, by the owner's word (after fsync) and by what a restart found.
  void durable(int worker, const Position& position);
  void restarted(int worker, const Position& journal_end);
  void cut(int worker, const Position& to, const Position& end);
  void disk_lost(int worker);
  bool may_lose_disk(int worker) const;  // another one has the commit
  bool has_commit(int worker) const;     // its disk

  // The row changed from one to the other in the store.
  void row(const Row& before, const Row& after);
  void row_lost(const Row& older);

  bool is_prefix(const Position& a, const Position& b) const;
  std::int64_t unused_samples(const Position& position) const;
  const Row& row() const { return row_; }

 private:
  struct Node {
    Position previous;
    std::int64_t term = 0;
    std::vector<SampleRange> used;  // truly, merged, ascending
  };
  struct Decided {
    Identity owner;
    Digest digest;
    std::vector<std::uint64_t> counted;
    struct Counted {
      std::int32_t voter = 0, worker = 0;
      Position base;
      SampleRange samples;
    };
    std::vector<Counted> ballots;
  };
  struct Seen {  // of one worker's process
    bool alive = false;
    WorkerState state = WorkerState::joining;
    std::int64_t term = 0;
    Position held;
    bool proven = false;  // its history is known to be the term's: it entered with a prefix
    std::optional<std::pair<std::int64_t, Position>> promised;  // term, held
  };
  const Node& node(const Position& position) const;
  void used(const WorkerCore& core, const void* data, std::int32_t sender, const char* what) const;

  Position genesis_;
  std::int64_t per_voter_;
  Row row_;
  struct Hash {
    std::size_t operator()(const Digest& d) const { return static_cast<std::size_t>(d.low); }
  };
  std::unordered_map<Digest, Node, Hash> nodes_;
  std::map<std::pair<std::int64_t, std::int64_t>, Position> by_term_step_;
  std::unordered_map<Digest, Digest, Hash> states_;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int32_t>, Decided> decided_;
  std::map<std::pair<int, const void*>, Hello> delivered_;
  std::map<int, Seen> seen_;
  std::map<std::pair<std::int64_t, Identity>, Position> reached_;  // by term and worker of it
  std::map<std::int64_t, Position> agreed_;                        // by term
  std::map<std::int64_t, TermRecord> terms_;
  std::map<int, Position> disks_;
  std::set<int> lost_disks_;
  std::optional<Position> lost_commit_;  // of a row that was lost, until a term begins again
  std::set<Position> published_;
  std::int64_t oldest_kept_ = -1;  // step of the older checkpoint of any row
  bool tainted_ = false;
};

}  // namespace ballot::sim
