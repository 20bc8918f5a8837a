// Turns the codes of the CUDA runtime and cuBLAS into errors: check(call, "copy {} bytes", n).
//
// What the machine lacks (memory, a device, a driver) is Unavailable, what its GPU did DeviceLost;
// else LogicError: a call of ours was wrong or an earlier kernel was. Asynchronous failures
// surface at the next call that waits. Messages name what was asked, the code and its text.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <source_location>
#include <string>
#include <utility>

#include "core/error.h"  // LocatedFormat

namespace ballot {

[[noreturn]] void throw_cuda_failure(cudaError_t code, const std::string& asked,
                                     const std::source_location& where);
[[noreturn]] void throw_cublas_failure(cublasStatus_t code, const std::string& asked,
                                       const std::source_location& where);

template <class... Args>
void check(cudaError_t code, LocatedFormat<std::type_identity_t<Args>...> asked, Args&&... args) {
  if (code != cudaSuccess) [[unlikely]]
    throw_cuda_failure(code, fmt::format(asked.format, std::forward<Args>(args)...), asked.where);
}

template <class... Args>
void check(cublasStatus_t code, LocatedFormat<std::type_identity_t<Args>...> asked,
           Args&&... args) {
  if (code != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    throw_cublas_failure(code, fmt::format(asked.format, std::forward<Args>(args)...), asked.where);
}

}  // namespace ballot
