#include "runtime/journal/journal_writer.h"

#include <utility>

#include "core/error.h"
#include "core/log.h"

namespace ballot {

JournalWriter::JournalWriter(std::unique_ptr<Journal> journal, JournalWriterOptions options)
    : journal_(std::move(journal)), options_(options), durable_(journal_->durable()) {
  written_bytes_ = journal_->written_bytes();
  thread_ = std::thread([this] { run(); });
}

JournalWriter::~JournalWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  thread_.join();
  if (failure_) {
    try {
      std::rethrow_exception(failure_);
    } catch (const std::exception& error) {
      log_error("the journal {} ended: {}", journal_->folder(), error.what());
    }
  }
}

void JournalWriter::rethrow() const {
  if (failure_) std::rethrow_exception(failure_);
}

double JournalWriter::push(Item item) {
  const Stopwatch watch;
  const std::uint64_t size = item.size();
  double waited = 0;
  {
    std::unique_lock lock(mutex_);
    rethrow();
    const auto fits = [&] {
      return failure_ || queued_bytes_ == 0 || queued_bytes_ + size <= options_.queue_bytes;
    };
    if (!fits()) {
      if (!room_.wait_until(lock, Deadline::in(options_.patience).at, fits))
        throw Timeout("the journal {} did not take {} bytes in {} s: {} bytes wait for the disk",
                      journal_->folder(), size, seconds(options_.patience), queued_bytes_);
      waited = watch.elapsed();
    }
    rethrow();
    queued_bytes_ += size;
    queue_.push_back(std::move(item));
    ++pushed_;
  }
  work_.notify_one();
  return waited;
}

double JournalWriter::append(const Record& record, const ShardPlan& plan) {
  Item item;
  item.bytes = encode(record, plan);
  return push(std::move(item));
}

double JournalWriter::append(const AppliedRecord& applied) {
  Item item;
  item.kind = Item::Kind::applied;
  item.applied = applied;
  return push(std::move(item));
}

void JournalWriter::start_segment() {
  Item item;
  item.kind = Item::Kind::start_segment;
  push(std::move(item));
}

void JournalWriter::forget_until(std::int64_t step) {
  Item item;
  item.kind = Item::Kind::forget;
  item.step = step;
  push(std::move(item));
}

void JournalWriter::flush() {
  std::unique_lock lock(mutex_);
  const std::uint64_t all = pushed_;
  flush_until_ = std::max(flush_until_, all);
  work_.notify_one();
  if (!room_.wait_until(lock, Deadline::in(options_.patience).at,
                        [&] { return failure_ || synced_ >= all; }))
    throw Timeout("the journal {} was not durable after {} s: {} bytes wait for the disk",
                  journal_->folder(), seconds(options_.patience), queued_bytes_);
  rethrow();
}

Position JournalWriter::durable() const {
  const std::lock_guard lock(mutex_);
  rethrow();
  return durable_;
}

std::uint64_t JournalWriter::written_bytes() const {
  const std::lock_guard lock(mutex_);
  return written_bytes_;
}

std::vector<Record> JournalWriter::read_after(const Position& position,
                                              std::uint64_t most_bytes) const {
  const std::lock_guard lock(journal_mutex_);
  return journal_->read_after(position, most_bytes);
}

void JournalWriter::look(const std::function<void(const JournalReader&)>& look) const {
  const std::lock_guard lock(journal_mutex_);
  look(*journal_);
}

void JournalWriter::write(Item item) {
  const std::lock_guard lock(journal_mutex_);
  switch (item.kind) {
    case Item::Kind::record:
      return journal_->append_encoded(item.bytes);
    case Item::Kind::applied:
      return journal_->append(item.applied);
    case Item::Kind::start_segment:
      return journal_->start_segment();
    case Item::Kind::forget:
      return journal_->forget_until(item.step);
  }
}

void JournalWriter::sync() {
  const std::lock_guard lock(journal_mutex_);
  journal_->sync();
}

// Writes what comes, and syncs when the oldest unsynced write is sync_every old, when somebody
// waits for it, and at the end.
void JournalWriter::run() {
  std::unique_lock lock(mutex_);
  TimePoint sync_at;
  try {
    while (true) {
      const bool unsynced = synced_ < done_;
      const bool sync_now = unsynced && queue_.empty() &&
                            (stop_ || flush_until_ > synced_ || system_clock().now() >= sync_at);
      const bool sync_late = unsynced && system_clock().now() >= sync_at;
      if (sync_now || sync_late) {
        const std::uint64_t covered = done_;
        lock.unlock();
        sync();
        lock.lock();
        synced_ = covered;
        durable_ = journal_->durable();
        room_.notify_all();
      } else if (!queue_.empty()) {
        Item item = std::move(queue_.front());
        queue_.pop_front();
        const std::uint64_t size = item.size();
        if (!unsynced) sync_at = system_clock().now() + options_.sync_every;
        lock.unlock();
        write(std::move(item));
        lock.lock();
        queued_bytes_ -= size;
        written_bytes_ = journal_->written_bytes();
        ++done_;
        room_.notify_all();
      } else if (stop_) {
        return;
      } else if (unsynced) {
        work_.wait_until(lock, sync_at);
      } else {
        work_.wait(lock);
      }
    }
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    failure_ = std::current_exception();
    queue_.clear();
    queued_bytes_ = 0;
    room_.notify_all();
  }
}

}  // namespace ballot
