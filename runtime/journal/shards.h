// The journal of a run as the shards of its workers hold it together: one history, each record with
// the bits from whichever disk has them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/disk.h"
#include "runtime/journal/journal.h"

namespace ballot {

// "RUN/journal/worker-3".
std::string shard_folder(const std::string& run_folder, int worker);
// The workers that have such a folder, ascending.
std::vector<int> shard_workers(Disk& disk, const std::string& run_folder);

class JournalShards {
 public:
  // Opens every shard of RUN/journal and changes nothing. A damaged one counts up to its damage.
  JournalShards(Disk& disk, const std::string& run_folder);

  struct Shard {
    int worker = 0;
    JournalReader reader;
  };
  const std::vector<Shard>& shards() const { return shards_; }  // by worker
  bool empty() const;                                           // no shard has a record
  // The positions that a history can begin at: each shard's begin, the earliest first.
  std::vector<Position> begins() const;

  // The history after `base`: of the shards' ends that follow `base`, the one of the greatest term,
  // then step. Its records as far as every chunk of each is on some shard.
  struct History {
    Position base, end;               // whole records of base.step + 1 ... end.step
    std::int64_t longest_step = 0;    // where the longest shard of this history ends
    std::string gap;                  // why `end` is before it; empty where it is not
    std::vector<Position> positions;  // after each record up to `end`
  };
  History history(const Position& base) const;

  // A record of that history, with all its bits.
  Record read(const History& history, std::int64_t step) const;
  // What it left, as the first shard that says so; none where no shard does.
  std::optional<AppliedRecord> applied(const History& history, std::int64_t step) const;

 private:
  std::vector<Shard> shards_;
};

}  // namespace ballot
