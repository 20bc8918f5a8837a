// The thread that reads and writes the row, so that a slow disk delays no answer to a pulse.
//
// One request is under way at a time. The outcome is handed to `done` on this thread.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "core/clock.h"
#include "runtime/coordinator/row_store.h"

namespace ballot {

// One of: written; refused, with the row as it is; or neither (unclear, or it could not be read).
struct RowOutcome {
  bool written = false;
  std::optional<Row> row;       // as read: after a refused write, or asked for
  std::string why;              // it was not written, or not read; empty otherwise
  std::exception_ptr hopeless;  // nothing can be written or read any more: the process has to end
};

class RowThread {
 public:
  using Done = std::function<void(RowOutcome)>;
  RowThread(std::unique_ptr<RowStore> store, Done done);
  // Waits for the request under way.
  ~RowThread();

  void write(Row row);
  void read();
  std::string store_name() const { return name_; }
  // Waits until no request is under way; false at the deadline.
  bool wait_idle(Deadline deadline);

 private:
  void request(std::optional<Row> row);
  void run();
  RowOutcome write_now(const Row& row);
  RowOutcome read_now();

  std::unique_ptr<RowStore> store_;
  const std::string name_;
  Done done_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool requested_ = false, busy_ = false, ending_ = false;
  std::optional<Row> row_;  // to be written; none: to be read
  std::thread thread_;
};

}  // namespace ballot
