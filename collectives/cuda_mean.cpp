#include "collectives/cuda_mean.h"

#include "core/cuda_backend.h"

namespace ballot {

CudaMean& cuda_mean() {
  return *cuda_backend().mean;
}

}  // namespace ballot
