// The executors' test kernels, for nvcc.
#include "core/cuda/kernel.h"

#include "simt/test_kernels.h"
