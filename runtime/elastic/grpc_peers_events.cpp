#include "runtime/elastic/grpc_peers_events.h"

#include <utility>

#include "core/error.h"
#include "core/log.h"

namespace ballot {

void PeerEvents::post(std::function<void()> event) {
  const std::lock_guard lock(mutex_);
  if (ending_) return;
  waiting_.push_back(std::move(event));
  changed_.notify_one();
}

void PeerEvents::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  std::deque<std::function<void()>> dropped;  // outside the mutex: they hold streams
  const std::lock_guard lock(mutex_);
  dropped.swap(waiting_);
}

void PeerEvents::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !waiting_.empty(); });
    if (ending_) return;
    std::function<void()> event = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    try {
      event();
    } catch (const std::exception& error) {
      log_error("what a peer sent could not be handled: {}", describe_failure(error).message);
    }
    event = nullptr;
    lock.lock();
  }
}

}  // namespace ballot
