// The folder of checkpoints that all workers share: shares that were written and fsynced, one by
// one, and whole checkpoints that got their final name. It outlives every worker.
//
// A share holds its slice of what its writer had in memory, so that a wrong replica makes a wrong
// slice.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "runtime/protocol/ledger.h"
#include "tests/simulation/toy_model.h"

namespace ballot::sim {

struct Snapshot {  // all that the records after it need
  ToyModel model;
  Ledger ledger;
  std::int64_t term = 0;  // of the record that ends there
};

class SharedStore {
 public:
  // Whatever is in `written` outside of the share's slice is not looked at.
  void write_share(const CheckpointFact& fact, Snapshot written);
  // Nothing: a share is missing.
  std::optional<Snapshot> whole(const Position& position, std::int32_t shares) const;
  // The rename. Again: nothing happens.
  void publish(Snapshot checkpoint);
  void forget_before(std::int64_t step);
  // A byte of the newest one changes, unless the one before it has been damaged too.
  void damage_newest();
  bool has_damage() const { return !damaged_.empty(); }

  // Those whose files are as their manifest says, ascending.
  std::vector<const Snapshot*> whole_ones() const;
  const Snapshot* newest_whole() const;
  // That was ever published, damaged or not; -1: none.
  std::int64_t newest_step() const;

 private:
  // By how many they are to be, too: each number has a folder of its own.
  std::map<std::pair<Position, std::int32_t>, std::map<std::int32_t, Snapshot>> shares_;
  std::map<Position, Snapshot> published_;
  std::set<Position> damaged_;
};

}  // namespace ballot::sim
