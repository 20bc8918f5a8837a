// Owners of what the CUDA libraries hand out: each is destroyed once, by its own function.
//
// Destroying never throws; what it says is dropped, because at a program's end the runtime may
// already be gone.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <utility>

namespace ballot {

template <class Handle, auto destroy>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, Handle{})) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != Handle{}) (void)destroy(handle_);
  }
  Handle get() const { return handle_; }
  Handle* address() { return &handle_; }  // for the call that makes it
  Handle release() { return std::exchange(handle_, Handle{}); }

 private:
  Handle handle_{};
};

using OwnedStream = Owned<cudaStream_t, cudaStreamDestroy>;
using OwnedEvent = Owned<cudaEvent_t, cudaEventDestroy>;
using OwnedCublas = Owned<cublasHandle_t, cublasDestroy>;
using OwnedDeviceMemory = Owned<void*, cudaFree>;

}  // namespace ballot
