#include "collectives/cuda_nccl.h"

#include "core/cuda_backend.h"

namespace ballot {

CudaNccl& cuda_nccl() {
  return *cuda_backend().nccl;
}

}  // namespace ballot
