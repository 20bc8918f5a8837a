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
  // `longest`: what the end waits for a request.
  RowThread(std::unique_ptr<RowStore> store, Done done, Duration longest);
  // Waits for the request under way, within limits: a disk that hangs must not hang the process.
  // Then the thread and its store are left behind, which the log says, and `done` is not called.
  ~RowThread();

  void write(Row row);
  void read();
  std::string store_name() const { return name_; }

 private:
  // The thread's, and its alone once it is left behind.
  struct Shared {
    std::unique_ptr<RowStore> store;
    std::mutex mutex;
    std::condition_variable changed;
    bool requested = false, busy = false, ending = false, over = false;
    std::optional<Row> row;  // to be written; none: to be read
    Done done;               // none: nobody listens any more
  };
  void request(std::optional<Row> row);
  static void run(Shared& shared);
  static RowOutcome write_now(RowStore& store, const Row& row);
  static RowOutcome read_now(RowStore& store);

  const std::shared_ptr<Shared> shared_;
  const std::string name_;
  const Duration longest_;
  std::thread thread_;
};

}  // namespace ballot
