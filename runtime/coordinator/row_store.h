// Where a coordinator keeps its row: one value with a revision, written only on condition of the
// revision that was read.
//
// The condition is the fence between rival coordinators (C1): of several that have read one
// revision one writes, the others are refused and read again. Used by one thread at a time;
// several stores, in one process or in many, may lead to one row.
#pragma once

#include <memory>
#include <string>

#include "runtime/protocol/messages.h"

namespace ballot {

enum class Written {
  yes,      // and durable
  refused,  // nothing was written: the row has another revision, or cannot be written now
  unclear,  // it may have been written or not: load() before anything is said
};

struct WriteAnswer {
  Written written = Written::unclear;
  std::string why;  // not written, or unclear
};

class RowStore {
 public:
  virtual ~RowStore() = default;
  // The row as it is now, revision 0 and empty before the first write. CorruptFile or ConfigError
  // for what is there and cannot be the row of this run; FileError or TransportError where it
  // cannot be read now.
  virtual Row load() = 0;
  // Puts `row` in the place of the row with revision row.revision, as revision + 1. Returns once
  // that is durable. Throws FileError only where the process has to end: after a failed fsync.
  virtual WriteAnswer write(const Row& row) = 0;
  // For messages: "RUN/coordinator.db".
  virtual std::string name() const = 0;
};

// A row shared by as many stores as one likes, for tests; `row` must outlive them and is guarded.
class MemoryRow;
std::shared_ptr<MemoryRow> make_memory_row();
std::unique_ptr<RowStore> open_memory_store(std::shared_ptr<MemoryRow> row);

// One SQLite file, made if there is none; several processes may have it open. It belongs to `run`:
// another name is a ConfigError, as is a file of another version of Ballot; anything else that is
// not such a file, or has been damaged, is a CorruptFile.
std::unique_ptr<RowStore> open_sqlite_store(const std::string& path, const std::string& run);

}  // namespace ballot
