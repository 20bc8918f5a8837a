#include "optim/cuda_optim.h"

#include "core/cuda_backend.h"

namespace ballot {

CudaOptim& cuda_optim() {
  return *cuda_backend().optim;
}

}  // namespace ballot
