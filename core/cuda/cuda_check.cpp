#include "core/cuda/cuda_check.h"

namespace ballot {
namespace {

bool machine_lacks_it(cudaError_t code) {
  return code == cudaErrorMemoryAllocation || code == cudaErrorNoDevice ||
         code == cudaErrorInsufficientDriver || code == cudaErrorSystemDriverMismatch ||
         code == cudaErrorSystemNotReady || code == cudaErrorDevicesUnavailable ||
         code == cudaErrorInitializationError || code == cudaErrorNoKernelImageForDevice;
}

bool machine_lacks_it(cublasStatus_t code) {
  return code == CUBLAS_STATUS_NOT_INITIALIZED || code == CUBLAS_STATUS_ALLOC_FAILED ||
         code == CUBLAS_STATUS_ARCH_MISMATCH;
}

}  // namespace

void throw_cuda_failure(cudaError_t code, const std::string& asked,
                        const std::source_location& where) {
  (void)cudaGetLastError();  // said here; must not be found again by the next launch
  const std::string message =
      fmt::format("CUDA cannot {}: {} ({}), {}", asked, cudaGetErrorName(code),
                  static_cast<int>(code), cudaGetErrorString(code));
  if (machine_lacks_it(code)) throw Unavailable("{}", message);
  throw_logic_error(where, message);
}

void throw_cublas_failure(cublasStatus_t code, const std::string& asked,
                          const std::source_location& where) {
  const std::string message =
      fmt::format("cuBLAS cannot {}: {} ({}), {}", asked, cublasGetStatusName(code),
                  static_cast<int>(code), cublasGetStatusString(code));
  if (machine_lacks_it(code)) throw Unavailable("{}", message);
  throw_logic_error(where, message);
}

}  // namespace ballot
