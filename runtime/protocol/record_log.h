// A worker's journal as the protocol sees it: records go in at the end, become durable together,
// come out again after a position.
//
// The production one is over runtime/journal (journal_log.h). Errors of the disk are FileError and
// end the process; damaged files are CorruptFile. Not for several threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/journal/record.h"
#include "runtime/protocol/position.h"

namespace ballot {

class RecordLog {
 public:
  virtual ~RecordLog() = default;
  virtual Position begin() const = 0;  // before the first record that is kept
  virtual Position end() const = 0;
  virtual void append(const Record& record) = 0;
  virtual Position sync() = 0;  // everything appended; the position that a crash cannot take
  // Records after `position` (which must be on it) up to `last_step`, at most `most` of them.
  virtual std::vector<std::shared_ptr<const Record>> after(const Position& position,
                                                           std::int64_t last_step,
                                                           std::size_t most) const = 0;
  virtual void cut_after(const Position& position) = 0;  // durable when it returns
};

}  // namespace ballot
