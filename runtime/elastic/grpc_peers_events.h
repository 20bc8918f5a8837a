// Hands what the network brings to its handler: one event after the other, on one thread of its
// own, never with a lock held.
//
// A handler may wait for a lock of the driver's while the driver, holding it, calls Peers: so no
// call of Peers waits for this thread, but stop().
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace ballot {

class PeerEvents {
 public:
  PeerEvents() : thread_([this] { run(); }) {}
  ~PeerEvents() { stop(); }

  // Any thread. After stop(): goes nowhere.
  void post(std::function<void()> event);
  // What waits goes nowhere; waits for the one under way.
  void stop();

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace ballot
