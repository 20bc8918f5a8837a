// The kernels for x86-64-v3.

namespace {
constexpr int kVectorBytes = 32;
}

#include "collectives/kernel_loops.h"

namespace ballot {

const Kernels kAvx2Kernels = BALLOT_KERNELS("avx2");

}  // namespace ballot
