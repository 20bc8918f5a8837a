// The kernels for any processor: registers of 16 bytes, which SSE2 and NEON have.

namespace {
constexpr int kVectorBytes = 16;
}

#include "collectives/kernel_loops.h"

namespace ballot {

const Kernels kPortableKernels = BALLOT_KERNELS("portable");

}  // namespace ballot
