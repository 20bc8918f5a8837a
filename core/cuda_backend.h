// The CUDA backend as the rest sees it: a plugin that is opened when a run asks for device "cuda",
// so that this binary starts and works where neither driver nor toolkit is.
//
// `ballot` never links CUDA. The plugin, libballot_cuda.so, exports ballot_cuda_backend(abi), which
// gives a table of one interface per floor; ops ask for theirs where a tensor lies on a GPU. Loaded
// once, never closed; safe from any thread.
#pragma once

#include <cstdint>

#include "core/device.h"  // Device

namespace ballot {

struct CudaCore;      // core/cuda/cuda_core.h
struct CudaModelOps;  // models/ops/cuda_model_ops.h
struct CudaOptim;     // optim/cuda_optim.h
struct CudaVote;      // collectives/cuda_vote.h
struct CudaMean;      // collectives/cuda_mean.h
struct CudaNccl;      // collectives/cuda_nccl.h

// Raised with every change of any of the interfaces: a plugin of another build is refused.
inline constexpr std::uint32_t kCudaBackendAbi = 4;

struct CudaBackend {
  CudaCore* core;
  CudaModelOps* model_ops;
  CudaOptim* optim;
  CudaVote* vote;
  CudaMean* mean;
  CudaNccl* nccl;
};

// The plugin's one exported function; null for another abi.
using FindCudaBackend = const CudaBackend* (*)(std::uint32_t abi);
inline constexpr const char* kFindCudaBackend = "ballot_cuda_backend";

// Throws Unavailable, saying where it looked and why not, when the plugin or what it needs is not
// there. $BALLOT_CUDA_PLUGIN names another file than the one beside the program.
const CudaBackend& cuda_backend();

// The GPU of the worker that is the local_rank-th on its machine (they take turns where there are
// fewer GPUs); Unavailable, saying why, when there is none that can be used.
Device find_cuda_device(int local_rank = 0);

}  // namespace ballot
