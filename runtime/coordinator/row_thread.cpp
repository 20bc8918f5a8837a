#include "runtime/coordinator/row_thread.h"

#include "core/error.h"
#include "core/log.h"

namespace ballot {

RowThread::RowThread(std::unique_ptr<RowStore> store, Done done, Duration longest)
    : shared_(std::make_shared<Shared>()), name_(store->name()), longest_(longest) {
  shared_->store = std::move(store);
  shared_->done = std::move(done);
  thread_ = std::thread([shared = shared_] { run(*shared); });
}

RowThread::~RowThread() {
  {
    std::unique_lock lock(shared_->mutex);
    shared_->ending = true;
    shared_->changed.notify_all();
    if (!shared_->changed.wait_until(lock, Deadline::in(longest_).at,
                                     [&] { return shared_->over; })) {
      shared_->done = nullptr;
      log_error(
          "{}: what was asked of it has not ended after {:.1f} s and is left behind; whether a row "
          "was written, the next coordinator will find out",
          name_, seconds(longest_));
      thread_.detach();
    }
  }
  if (thread_.joinable()) thread_.join();
}

void RowThread::write(Row row) {
  request(std::move(row));
}

void RowThread::read() {
  request(std::nullopt);
}

void RowThread::request(std::optional<Row> row) {
  const std::lock_guard lock(shared_->mutex);
  require(!shared_->requested && !shared_->busy, "a request to {} while one is under way", name_);
  shared_->row = std::move(row);
  shared_->requested = true;
  shared_->changed.notify_all();
}

void RowThread::run(Shared& shared) {
  std::unique_lock lock(shared.mutex);
  while (true) {
    shared.changed.wait(lock, [&] { return shared.requested || shared.ending; });
    if (!shared.requested) break;
    const std::optional<Row> row = std::move(shared.row);
    shared.requested = false;
    shared.busy = true;
    lock.unlock();
    RowOutcome outcome;
    try {
      outcome = row ? write_now(*shared.store, *row) : read_now(*shared.store);
    } catch (...) {
      outcome.hopeless = std::current_exception();
    }
    lock.lock();
    shared.busy = false;
    // With the mutex held: without it, whoever listens may be gone.
    if (shared.done) shared.done(std::move(outcome));
  }
  shared.over = true;
  shared.changed.notify_all();
}

RowOutcome RowThread::write_now(RowStore& store, const Row& row) {
  const WriteAnswer answer = store.write(row);
  RowOutcome outcome;
  outcome.written = answer.written == Written::yes;
  outcome.why = answer.why;
  if (answer.written == Written::refused) {
    RowOutcome read = read_now(store);
    outcome.row = std::move(read.row);
    if (!outcome.row) outcome.why += "; then: " + read.why;
  }
  return outcome;
}

RowOutcome RowThread::read_now(RowStore& store) {
  RowOutcome outcome;
  try {
    outcome.row = store.load();
  } catch (const FileError& error) {  // now; anything else will not be better later
    outcome.why = error.what();
  } catch (const TransportError& error) {
    outcome.why = error.what();
  }
  return outcome;
}

}  // namespace ballot
