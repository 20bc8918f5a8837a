// The mutex of one mesh, and how its threads tell the caller that something has moved.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace ballot {

struct MeshSignal {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t events = 0;
  bool cutting = false;  // no new operation of gRPC may begin

  // With the mutex held.
  void notify() {
    ++events;
    changed.notify_all();
  }
};

}  // namespace ballot
