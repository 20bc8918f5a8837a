// An elastic worker's own journal, whole records of every step: written by a thread beside the
// steps, read for peers that fetch, cut and begun anew when its worker goes back.
//
// Any thread may call; cuts wait for readers. An error of the disk comes out of the next call and
// of every later one.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "core/disk.h"
#include "runtime/journal/journal_writer.h"
#include "runtime/protocol/history.h"

namespace ballot {

class ElasticJournal {
 public:
  struct Options {
    std::string folder;  // made if there is none
    Digest run;
    Position start;  // where it begins, if it has no record
    JournalOptions journal;
    JournalWriterOptions writer;
    std::uint64_t recent_bytes = std::uint64_t{64} << 20;  // of the last records kept in memory
  };
  // A torn tail is cut. DataError if the folder is of another run; CorruptFile for damage inside.
  ElasticJournal(Disk& disk, Options options);

  // As it was opened, or after the last cut; not while records are appended.
  Position begin() const;
  Position end() const;
  // The positions from one that it contains to the end; `term` is that of the record before it.
  History history_from(const Position& position, std::int64_t term) const;
  // A record that has been written.
  Record read(std::int64_t step) const;
  bool contains(const Position& position) const;
  std::optional<AppliedRecord> applied(std::int64_t step) const;

  void append(std::shared_ptr<const Record> record);
  void append(const AppliedRecord& applied) const;
  struct Cost {
    std::uint64_t written_bytes = 0;
    double seconds = 0, waited_seconds = 0;  // of those who append, and for room in the queue
    std::int64_t behind_steps = 0;           // appended and not durable yet
  };
  Cost take_cost();          // since the last call
  Position durable() const;  // never waits for a cut: says then what it was before
  // Records after a position on it, up to `last_step`: fewer where they would be more than
  // `most_bytes` or are not written yet. None if it is not on it.
  std::vector<std::shared_ptr<const Record>> after(const Position& position, std::int64_t last_step,
                                                   std::uint64_t most_bytes) const;
  // Durable when it returns.
  void cut_after(const Position& position);
  void restart_at(const Position& position);
  void flush() const;
  // Whole segments at or before `step` go; later records begin a new one.
  void forget_until(std::int64_t step) const;

 private:
  std::unique_ptr<Journal> open() const;
  template <class Change>
  void change(const Change& change);

  Disk& disk_;
  const Options options_;
  Position start_;                   // where it begins while it has no record
  mutable std::shared_mutex mutex_;  // of writer_: exclusive while it is replaced
  std::unique_ptr<JournalWriter> writer_;
  mutable std::mutex recent_mutex_;  // of what follows
  mutable Position durable_;
  std::deque<std::shared_ptr<const Record>> recent_;
  std::uint64_t recent_size_ = 0;
  mutable Cost cost_;
  std::uint64_t seen_bytes_ = 0;  // of this writer_, told already
  std::int64_t appended_step_ = 0;
};

}  // namespace ballot
