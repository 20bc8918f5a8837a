// Neither infinite nor a NaN, for kernels: g++ and nvcc declare isfinite() differently.
#pragma once

#include "core/cuda/kernel.h"

namespace ballot {

__device__ __forceinline__ bool is_finite(double x) {
  return fabs(x) < HUGE_VAL;
}

}  // namespace ballot
