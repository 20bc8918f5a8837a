#include "runtime/communication.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

// Between two looks at the network while somebody waits for it; and while backward goes on, which
// may need the same core and which a later look costs nothing.
constexpr auto kPause = std::chrono::microseconds(200);
constexpr auto kBackgroundPause = std::chrono::microseconds(500);

}  // namespace

Communication::Communication(std::vector<Collective*> collectives, bool overlap)
    : collectives_(std::move(collectives)) {
  if (overlap && !collectives_.empty()) thread_ = std::thread([this] { run(); });
}

Communication::~Communication() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void Communication::begin(std::int64_t step) {
  const std::lock_guard lock(mutex_);
  require(!driving_, "step {} begins while the one before is under way", step);
  for (Collective* collective : collectives_) collective->begin(step);
  was_under_way_ = false;
  busy_ = 0;
  shown_busy_ = 0;
  deadline_ = Deadline{};  // nobody is late while we compute ourselves
  failure_ = nullptr;
  driving_ = overlaps();
  changed_.notify_all();
}

void Communication::wake() {
  if (!overlaps()) return;
  const std::lock_guard lock(mutex_);
  ++wakes_;
  changed_.notify_all();
}

void Communication::poll() {
  require(!overlaps(), "a communication that has a thread of its own is polled");
  if (!collectives_.empty()) advance();
}

bool Communication::under_way() const {
  return std::ranges::any_of(collectives_, [](const Collective* c) { return c->under_way(); });
}

Communication::Pass Communication::advance() {
  bool whole = true, moved = false;
  if (!was_under_way_) since_pass_.lap();  // the pause since the last pass was nobody's wire time
  for (Collective* collective : collectives_) {
    whole &= collective->advance();
    moved |= collective->moved();
  }
  busy_ += since_pass_.lap();
  was_under_way_ = !whole && under_way();
  return whole ? Pass::whole : moved ? Pass::moved : Pass::idle;
}

void Communication::give_up(Deadline deadline) {
  if (!deadline.passed()) return;
  for (Collective* collective : collectives_)
    if (!collective->advance()) collective->give_up();
}

Communication::Times Communication::finish(Deadline deadline) {
  Stopwatch waited;
  double busy_before = 0;
  if (overlaps()) {
    std::unique_lock lock(mutex_);
    busy_before = shown_busy_;
    deadline_ = deadline;
    ++wakes_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !driving_; });
    if (failure_) std::rethrow_exception(failure_);
  } else {
    busy_before = busy_;
    for (Pass pass; (pass = advance()) != Pass::whole;) {
      if (pass == Pass::moved) continue;
      give_up(deadline);
      collectives_.front()->transport().idle(kPause);
    }
  }
  Times times;
  times.exposed = waited.elapsed();
  times.hidden = busy_before;
  return times;
}

void Communication::run() {
  set_thread_count(1);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || driving_; });
    if (stop_) return;
    try {
      drive_one_step(lock);
    } catch (...) {
      if (!lock.owns_lock()) lock.lock();
      failure_ = std::current_exception();
    }
    driving_ = false;
    changed_.notify_all();
  }
}

void Communication::drive_one_step(std::unique_lock<std::mutex>& lock) {
  while (!stop_) {
    const std::uint64_t seen = wakes_;
    const Deadline deadline = deadline_;
    lock.unlock();
    const Pass pass = advance();
    const bool awaited = deadline.at != TimePoint::max();
    if (pass == Pass::idle) {
      give_up(deadline);
      if (under_way() && awaited) collectives_.front()->transport().idle(kPause);
    }
    const bool on_the_wire = under_way();
    lock.lock();
    shown_busy_ = busy_;
    if (pass == Pass::whole) return;
    if (pass == Pass::moved) continue;
    // The next release, the end of backward or the deadline wakes us; what is on the wire is looked
    // after meanwhile.
    const auto woken = [&] { return stop_ || wakes_ != seen; };
    if (on_the_wire && !awaited)
      changed_.wait_for(lock, kBackgroundPause, woken);
    else if (!on_the_wire && awaited)
      changed_.wait_until(lock, deadline.at, woken);
    else if (!on_the_wire)
      changed_.wait(lock, woken);
  }
}

}  // namespace ballot
