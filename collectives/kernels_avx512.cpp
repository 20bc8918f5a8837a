// The kernels for x86-64-v4 with a vector popcount.

namespace {
constexpr int kVectorBytes = 64;
}

#include "collectives/kernel_loops.h"

namespace ballot {

const Kernels kAvx512Kernels = BALLOT_KERNELS("avx512");

}  // namespace ballot
