#include "runtime/coordinator/row_thread.h"

#include "core/error.h"

namespace ballot {

RowThread::RowThread(std::unique_ptr<RowStore> store, Done done)
    : store_(std::move(store)),
      name_(store_->name()),
      done_(std::move(done)),
      thread_([this] { run(); }) {}

RowThread::~RowThread() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void RowThread::write(Row row) {
  request(std::move(row));
}

void RowThread::read() {
  request(std::nullopt);
}

void RowThread::request(std::optional<Row> row) {
  const std::lock_guard lock(mutex_);
  require(!requested_ && !busy_, "a request to {} while one is under way", name_);
  row_ = std::move(row);
  requested_ = true;
  changed_.notify_all();
}

bool RowThread::wait_idle(Deadline deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline.at, [&] { return !requested_ && !busy_; });
}

void RowThread::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return requested_ || ending_; });
    if (!requested_) return;
    const std::optional<Row> row = std::move(row_);
    requested_ = false;
    busy_ = true;
    lock.unlock();
    RowOutcome outcome;
    try {
      outcome = row ? write_now(*row) : read_now();
    } catch (...) {
      outcome.hopeless = std::current_exception();
    }
    lock.lock();
    busy_ = false;
    changed_.notify_all();
    lock.unlock();
    done_(std::move(outcome));
    lock.lock();
  }
}

RowOutcome RowThread::write_now(const Row& row) {
  const WriteAnswer answer = store_->write(row);
  RowOutcome outcome;
  outcome.written = answer.written == Written::yes;
  outcome.why = answer.why;
  if (answer.written == Written::refused) {
    RowOutcome read = read_now();
    outcome.row = std::move(read.row);
    if (!outcome.row) outcome.why += "; then: " + read.why;
  }
  return outcome;
}

RowOutcome RowThread::read_now() {
  RowOutcome outcome;
  try {
    outcome.row = store_->load();
  } catch (const FileError& error) {  // now; anything else will not be better later
    outcome.why = error.what();
  } catch (const TransportError& error) {
    outcome.why = error.what();
  }
  return outcome;
}

}  // namespace ballot
