// The program's side of the model's ops on CUDA: they are the plugin's.
#include "models/ops/cuda_model_ops.h"

#include "core/cuda_backend.h"

namespace ballot {

CudaModelOps& cuda_model_ops() {
  return *cuda_backend().model_ops;
}

}  // namespace ballot
