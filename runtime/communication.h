// Drives a step's collectives: with overlap on a thread of its own while the caller computes,
// without it on the caller's thread when it has nothing else to do.
//
// begin() -> wake() after each release -> finish(). Between begin() and the return of finish() the
// collectives' transport belongs to it. Errors of the thread come out of finish(). The thread
// tallies with one core; it sleeps when nothing is on the wire.
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "collectives/collective.h"

namespace ballot {

class Communication {
 public:
  // `collectives` share one transport and must outlive it.
  Communication(std::vector<Collective*> collectives, bool overlap);
  ~Communication();  // leaves what is under way
  Communication(const Communication&) = delete;

  void begin(std::int64_t step);
  void wake();
  // Without a thread: goes on with what may go on, never blocks. For a caller who has the transport
  // between other work.
  void poll();

  // Seconds of wall time. Exposed is what finish() waited; hidden is how long something was on the
  // wire or being counted before that.
  struct Times {
    double exposed = 0, hidden = 0;
  };
  // All must be released. Returns when all are whole; Timeout names the ranks waited for.
  Times finish(Deadline deadline);

  bool overlaps() const { return thread_.joinable(); }

 private:
  enum class Pass { idle, moved, whole };
  Pass advance();  // each collective once
  bool under_way() const;
  void give_up(Deadline deadline);
  void run();
  void drive_one_step(std::unique_lock<std::mutex>& lock);

  std::vector<Collective*> collectives_;
  std::thread thread_;

  std::mutex mutex_;  // of everything below
  std::condition_variable changed_;
  bool driving_ = false;  // the thread has a step to drive
  bool stop_ = false;
  std::uint64_t wakes_ = 0;
  Deadline deadline_;
  std::exception_ptr failure_;
  double shown_busy_ = 0;  // busy_, as finish() may read it

  bool was_under_way_ = false;  // of the driver alone
  Stopwatch since_pass_;
  double busy_ = 0;  // s that something was under way
};

}  // namespace ballot
