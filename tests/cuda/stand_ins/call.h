// The door of every call of a stand-in: takes the device's lock, returns a failure that is kept,
// and keeps what the call finds wrong.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>
#include <string>

#include "stand_ins/failure.h"
#include "stand_ins/work_queue.h"

namespace ballot::stand_in {

// Sets the calling thread's last error.
cudaError_t remember(cudaError_t code);
int device_of_thread();

template <class Body>
cudaError_t call(const char* name, const Body& body) {
  const std::lock_guard lock(device_lock());
  fail_if_asked(name);
  if (failure() != cudaSuccess) return remember(failure());
  try {
    return remember(body());
  } catch (const Violation& found) {
    keep_failure(found.code(), std::string(name) + ": " + found.what());
    return remember(failure());
  }
}

}  // namespace ballot::stand_in
