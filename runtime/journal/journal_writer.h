// A journal with a thread beside it, so that no step waits for a disk: appending copies into a
// bounded queue, the thread writes and makes durable in groups.
//
// Everything but the constructor and the destructor may be called from several threads. An error of
// the thread comes out of the next call, and of every later one: the journal is over then.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "runtime/journal/journal.h"

namespace ballot {

struct JournalWriterOptions {
  Duration sync_every = std::chrono::milliseconds(200);  // the most that a power cut takes back
  std::uint64_t queue_bytes = std::uint64_t{256} << 20;  // one record more may be in it
  Duration patience = std::chrono::seconds(600);         // of a full queue, and of flush()
};

class JournalWriter {
 public:
  JournalWriter(std::unique_ptr<Journal> journal, JournalWriterOptions options = {});
  JournalWriter(const JournalWriter&) = delete;
  JournalWriter& operator=(const JournalWriter&) = delete;
  ~JournalWriter();  // writes what is queued and makes it durable; an error is logged

  // The next record, or what a step left. Returns the seconds it waited for room in the queue;
  // Timeout names the folder.
  double append(const Record& record, const ShardPlan& plan);
  double append(const AppliedRecord& applied);
  // In their turn, after what was appended before.
  void start_segment();
  void forget_until(std::int64_t step);
  // Returns when everything appended so far is durable.
  void flush();

  Position durable() const;
  std::uint64_t written_bytes() const;
  // Records that were written, while the thread goes on: see Journal::read_after().
  std::vector<Record> read_after(const Position& position, std::uint64_t most_bytes) const;
  // The journal as it is written, which stands still meanwhile.
  void look(const std::function<void(const JournalReader&)>& look) const;

 private:
  struct Item {
    enum class Kind { record, applied, start_segment, forget } kind = Kind::record;
    std::vector<std::byte> bytes;
    AppliedRecord applied;
    std::int64_t step = 0;
    std::uint64_t size() const { return bytes.size() + 8 * applied.tensors.size(); }
  };
  double push(Item item);
  void rethrow() const;  // with mutex_ held
  void run();
  void write(Item item);
  void sync();

  const std::unique_ptr<Journal> journal_;
  const JournalWriterOptions options_;

  mutable std::mutex journal_mutex_;  // of journal_, held while it writes; never after mutex_
  mutable std::mutex mutex_;          // of everything below
  std::condition_variable work_, room_;
  std::deque<Item> queue_;
  std::uint64_t queued_bytes_ = 0, written_bytes_ = 0;
  std::uint64_t pushed_ = 0, done_ = 0, synced_ = 0;  // items so far
  std::uint64_t flush_until_ = 0;                     // items that somebody waits for
  Position durable_;
  bool stop_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace ballot
