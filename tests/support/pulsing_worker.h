// A worker as its coordinator sees one: joins, pulses and obeys orders, but trains nothing. Its
// history is the same function of the step for all, so that any two agree.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/digest.h"
#include "core/error.h"
#include "core/version.h"
#include "runtime/coordinator/coordinator_client.h"

namespace ballot::test {

inline Position history(std::int64_t step) {
  return {step, step == 0 ? Digest{} : digest_of(fmt::format("step {}", step))};
}

inline Digest run_config_digest() {
  return digest_of("the run's configuration");
}

class PulsingWorker {
 public:
  PulsingWorker(CoordinatorClientOptions options, std::int32_t number)
      : number_(number), client_(std::move(options)), thread_([this] { run(); }) {}
  PulsingWorker(const PulsingWorker&) = delete;
  // As if it were killed: says nothing more.
  ~PulsingWorker() {
    ending_ = true;
    thread_.join();
  }

  // It holds all steps up to this one, durably.
  void hold(std::int64_t step) {
    change([&] {
      pulse_.held = pulse_.durable = history(step);
      pulse_.applied = step;
      pulse_.held_term = pulse_.term;
    });
  }
  void suspect(std::int32_t worker, const std::string& reason) {
    change([&] {
      pulse_.suspects = {{worker, reason}};
      if (pulse_.state == WorkerState::voting) pulse_.state = WorkerState::sealed;
    });
  }
  void leave() {
    change([&] { pulse_.leaving = true; });
  }

  Pulse pulse() const {
    const std::lock_guard lock(mutex_);
    return pulse_;
  }
  TermRecord record() const {
    const std::lock_guard lock(mutex_);
    return record_.value_or(TermRecord{});
  }
  std::int64_t commit() const {
    const std::lock_guard lock(mutex_);
    return pulse_.told.step;
  }
  bool voting_in(std::int64_t term) const {
    const std::lock_guard lock(mutex_);
    return pulse_.state == WorkerState::voting && pulse_.term == term;
  }
  bool dismissed() const { return dismissed_; }
  int joins() const { return joins_; }
  // What ended it, or empty.
  std::string failure() const {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  const CoordinatorClient& client() const { return client_; }

 private:
  template <class Change>
  void change(const Change& body) {
    const std::lock_guard lock(mutex_);
    body();
    if (joined_) client_.tell(pulse_);
  }

  void run() {
    try {
      join();
      std::int64_t seen = 0;
      while (!ending_) {
        const auto heard = client_.wait_newer(seen, Deadline::in(std::chrono::milliseconds(50)));
        if (!heard) continue;
        seen = heard->number;
        bool out = heard->order.rejoin;
        if (!out) change([&] { out = obey(heard->order); });
        if (out) join();
      }
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex_);
      failure_ = error.what();
    }
  }

  void join() {
    Join join;
    join.worker = number_;
    join.address = fmt::format("127.0.0.1:{}", 20000 + number_);
    join.config = run_config_digest();
    join.version = version();
    join.again = joins_ > 0;  // a process that was sent away is not let in again
    const Identity identity = client_.join(join, Deadline::in(std::chrono::seconds(20)));
    ++joins_;
    change([&] {
      joined_ = true;
      pulse_.identity = identity;
      pulse_.address = join.address;
      pulse_.state = WorkerState::joining;
      pulse_.term = 0;
      pulse_.has_commit = true;
      pulse_.has_start = pulse_.ready = false;
      pulse_.suspects.clear();
      pulse_.stage = "joins";
    });
  }

  // Whether it is out of the term and has to join again.
  bool obey(const Order& order) {
    dismissed_ = dismissed_ || order.dismissed;
    pulse_.told = order.commit;  // its history contains every step
    const bool again = pulse_.state != WorkerState::joining && order.term <= pulse_.term;
    if (order.record && !again) {
      const TermWorker* me = order.record->find(number_);
      if (me != nullptr && me->identity == pulse_.identity) {
        record_ = order.record;
        pulse_.term = order.record->term;
        pulse_.state = WorkerState::voting;
        pulse_.held = pulse_.durable = order.record->start;
        pulse_.applied = order.record->start.step;
        pulse_.has_start = true;
        pulse_.suspects.clear();
        pulse_.stage = "votes";
      } else if (pulse_.state != WorkerState::joining) {
        return true;
      }
    } else if (pulse_.state == WorkerState::joining) {
      pulse_.term = order.term;  // everybody would vouch for it
      if (order.head > pulse_.held.step) pulse_.held = pulse_.durable = history(order.head);
      pulse_.applied = pulse_.held.step;
      pulse_.ready = order.term > 0;
    }
    if (order.seal_at && order.term == pulse_.term && pulse_.state == WorkerState::voting &&
        (*order.seal_at == 0 || pulse_.held.step >= *order.seal_at)) {
      pulse_.state = WorkerState::sealed;
      pulse_.stage = "sealed";
    }
    return false;
  }

  const std::int32_t number_;
  std::atomic<bool> ending_ = false, dismissed_ = false;
  std::atomic<int> joins_ = 0;
  mutable std::mutex mutex_;
  Pulse pulse_;
  std::optional<TermRecord> record_;
  bool joined_ = false;
  std::string failure_;
  CoordinatorClient client_;
  std::thread thread_;
};

// Looks every few milliseconds whether it holds.
template <class Condition>
bool within(std::chrono::milliseconds limit, const Condition& holds) {
  const Deadline deadline = Deadline::in(limit);
  while (!holds()) {
    if (deadline.passed()) return holds();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace ballot::test
