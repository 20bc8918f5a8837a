// The plugin's one exported function and its table of floors.
#include "core/cuda/plugin_core.h"
#include "core/cuda_backend.h"

namespace ballot {

// Within the plugin the floors ask for each other by the same names as outside.
CudaCore& cuda_core() {
  static auto* core = new PluginCore;  // never destroyed: buffers may be released at the very end
  return *core;
}

// Each in its floor's own file.
CudaModelOps& cuda_model_ops();
CudaOptim& cuda_optim();
CudaVote& cuda_vote();
CudaMean& cuda_mean();
CudaNccl& cuda_nccl();

}  // namespace ballot

extern "C" __attribute__((visibility("default"))) const ballot::CudaBackend* ballot_cuda_backend(
    std::uint32_t abi) {
  if (abi != ballot::kCudaBackendAbi) return nullptr;
  static const ballot::CudaBackend backend{&ballot::cuda_core(),  &ballot::cuda_model_ops(),
                                           &ballot::cuda_optim(), &ballot::cuda_vote(),
                                           &ballot::cuda_mean(),  &ballot::cuda_nccl()};
  return &backend;
}
