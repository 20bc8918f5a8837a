// One worker's journal: an append-only row of records (a shard: perhaps not every chunk's bits) in
// segment files of one folder, FOLDER/<first step>.journal. docs/journal-format.md has the bytes.
//
// Records follow each other without a gap: each names the digest of the chain before it. A kill at
// any instant leaves every record whose frame was whole; opening cuts a torn tail back to the last
// whole one. Damage that a whole frame follows is no torn tail: CorruptFile, and nothing is cut.
// Not thread-safe, no clock, no thread of its own: journal_writer.h puts one beside it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/disk.h"
#include "runtime/journal/applied.h"
#include "runtime/journal/record.h"
#include "runtime/protocol/position.h"

namespace ballot {

// What to do where a whole frame follows damage: throw, or end before it and say so in damage().
enum class OnDamage { refuse, stop };

// Reads a shard and changes nothing: also one that a running worker appends to. A torn tail is left
// out.
class JournalReader {
 public:
  // Scans all segments and proves every checksum and the chain. `disk` must outlive it. CorruptFile
  // names file and byte.
  JournalReader(Disk& disk, std::string folder, OnDamage on_damage = OnDamage::refuse);

  const std::string& folder() const { return folder_; }
  bool empty() const { return entries_.empty(); }
  bool has_segments() const { return !segments_.empty(); }
  // Of the run that it belongs to, as its segments say; meaningless without segments.
  const Digest& run() const { return run_; }
  // Before the first retained record, and after the last.
  const Position& begin() const { return begin_; }
  const Position& end() const { return end_; }
  std::int64_t end_term() const;                  // of the last record; 0 without one
  bool contains(const Position& position) const;  // begin() and end() included
  std::optional<Position> position_after(std::int64_t step) const;
  std::int64_t term_of(std::int64_t step) const;  // of the record of a step it holds
  // By item (chunks, then means): whether the record's bits are here.
  const std::vector<bool>& present(std::int64_t step) const;

  // The record of a step in (begin, end], with the bits that are here.
  Record read(std::int64_t step) const;
  // Records after a position it contains, at most so many bytes of them but one at least.
  std::vector<Record> read_after(const Position& position, std::uint64_t most_bytes) const;
  std::optional<AppliedRecord> applied(std::int64_t step) const;
  std::uint64_t size_bytes() const;  // of all segments
  // What follows the last whole frame, a write that a crash cut short.
  std::uint64_t torn_bytes() const { return torn_bytes_; }
  const std::string& damage() const { return damage_; }  // empty: none

 protected:
  struct Segment {
    std::string path;
    std::int64_t first_step = 0;  // of its first record, if it has one
    Position start;               // the chain before it
    std::uint64_t size = 0;       // bytes of its header and whole frames
    std::uint64_t file_size = 0;  // with a torn tail
    bool headless = false;        // a crash cut its header short: nothing is in it
  };
  struct Entry {
    Position position;  // after the record
    std::int64_t term = 0;
    std::vector<bool> present;
    std::size_t segment = 0;
    std::uint64_t offset = 0, length = 0;  // of the frame's payload
    std::size_t applied_segment = 0;
    std::uint64_t applied_offset = 0, applied_length = 0;  // length 0: none
  };
  void scan();
  void scan_segment(std::size_t index, bool last);
  const Entry& entry_of(std::int64_t step) const;
  static Entry entry_for(const Record& head, std::size_t segment, std::uint64_t offset,
                         std::uint64_t length);

  Disk& disk_;
  std::string folder_;
  Digest run_;
  Position begin_, end_;
  std::vector<Segment> segments_;
  std::vector<Entry> entries_;  // of steps begin_.step + 1, ...
  std::uint64_t torn_bytes_ = 0;
  std::string damage_;
};

struct JournalOptions {
  std::uint64_t segment_bytes = std::uint64_t{256} << 20;  // a segment ends once it has as many
};

class Journal : public JournalReader {
 public:
  // Opens the shard, or makes its folder; where it has no record, it begins at `start`. A torn tail
  // is cut, durably. DataError if it belongs to another run.
  Journal(Disk& disk, std::string folder, const Digest& run, const Position& start,
          JournalOptions options = {});

  // What a crash cannot take: everything up to the last sync().
  const Position& durable() const { return durable_; }
  const Digest& run_digest() const { return run_digest_; }
  // In this process, headers included.
  std::uint64_t written_bytes() const { return written_bytes_; }

  // The next record: its step is end().step + 1 and its `previous` end().digest. Not durable yet.
  void append(const Record& record) { append_encoded(encode(record)); }
  void append(const Record& record, const ShardPlan& plan) { append_encoded(encode(record, plan)); }
  void append_encoded(std::span<const std::byte> record);  // the bytes of encode()
  // What the step at end(), or an earlier one here, left.
  void append(const AppliedRecord& applied);
  // Makes all of it durable and returns end(). After an error of any writing call the journal is
  // over: what the disk holds is unknown, and every later call throws the same error.
  Position sync();
  // The next record begins a new segment: retention works by whole segments.
  void start_segment();
  // Makes everything after a position it contains disappear, durably, before anything else can be
  // appended.
  void cut_after(const Position& position);
  // Deletes the segments that lie wholly at or before `step`, never the last one.
  void forget_until(std::int64_t step);
  // Deletes everything: it begins anew at `start`. The caller knows that nothing here is needed.
  void restart_at(const Position& start);

 private:
  void require_usable() const;
  template <class Work>
  void guarded(const Work& work);
  void open_segment();
  void write_frame(std::uint32_t kind, std::int64_t step, std::span<const std::byte> payload);
  void close_segment();
  void drop_last_segment();
  void cut_torn_tail();

  JournalOptions options_;
  Digest run_digest_;
  Position durable_;
  std::unique_ptr<AppendFile> file_;  // of the last segment, while it is written
  bool full_ = false;                 // the next record begins a new segment
  std::uint64_t written_bytes_ = 0;
  std::exception_ptr failure_;
};

}  // namespace ballot
