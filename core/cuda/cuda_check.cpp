#include "core/cuda/cuda_check.h"

#include "core/cuda/device_lost.h"

namespace ballot {
namespace {

bool machine_lacks_it(cudaError_t code) {
  return code == cudaErrorMemoryAllocation || code == cudaErrorNoDevice ||
         code == cudaErrorInsufficientDriver || code == cudaErrorSystemDriverMismatch ||
         code == cudaErrorSystemNotReady || code == cudaErrorDevicesUnavailable ||
         code == cudaErrorInitializationError || code == cudaErrorNoKernelImageForDevice;
}

// What the hardware or the driver did, not a call of ours.
bool device_failed(cudaError_t code) {
  return code == cudaErrorECCUncorrectable || code == cudaErrorNvlinkUncorrectable ||
         code == cudaErrorExternalDevice || code == cudaErrorMpsRpcFailure ||
         code == cudaErrorMpsClientTerminated || code == cudaErrorUnknown ||
         static_cast<int>(code) == 226;  // cudaErrorContained, which older toolkits have not
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
  if (device_failed(code)) throw DeviceLost("the GPU is lost: " + message);
  throw_logic_error(where, message);
}

void throw_cublas_failure(cublasStatus_t code, const std::string& asked,
                          const std::source_location& where) {
  const std::string message =
      fmt::format("cuBLAS cannot {}: {} ({}), {}", asked, cublasGetStatusName(code),
                  static_cast<int>(code), cublasGetStatusString(code));
  // cuBLAS does not say that it failed because the GPU has; any call of the runtime does.
  std::size_t free = 0, all = 0;
  if (const cudaError_t device = cudaMemGetInfo(&free, &all); device_failed(device))
    throw_cuda_failure(device, asked, where);
  if (machine_lacks_it(code)) throw Unavailable("{}", message);
  throw_logic_error(where, message);
}

}  // namespace ballot
