// What the stand-ins of the CUDA libraries find wrong, kept as the runtime keeps a failed kernel:
// it stays, every later call returns it, and cudaGetErrorString tells it in full.
//
// A real device would often go on in silence; here a wrong pointer, a forgotten workspace or a
// fault in a kernel ends all work of the process until cudaDeviceReset().
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace ballot::stand_in {

// Thrown where something is found; the call's door turns it into the sticky error.
class Violation : public std::runtime_error {
 public:
  Violation(cudaError_t code, const std::string& message)
      : std::runtime_error(message), code_(code) {}
  cudaError_t code() const { return code_; }

 private:
  cudaError_t code_;
};

template <class... Args>
[[noreturn]] void refuse(cudaError_t code, fmt::format_string<Args...> format, Args&&... args) {
  throw Violation(code, fmt::format(format, std::forward<Args>(args)...));
}

// The first failure stays. Callers hold the device's lock.
void keep_failure(cudaError_t code, const std::string& message);
cudaError_t failure();  // cudaSuccess when there is none
const std::string& failure_text();
void forget_failure();
// BALLOT_STAND_IN_FAIL=NAME:N:CODE makes the N-th call of NAME in this process fail with that code,
// and all after it, as a GPU does that has an uncorrectable error.
void fail_if_asked(const char* name);

}  // namespace ballot::stand_in
