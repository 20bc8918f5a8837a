// The main of tests of CUDA code: they need a device that the plugin finds.
//
// Where $BALLOT_CUDA_PLUGIN cannot find one the whole program says so and leaves with 77, which
// CTest takes for "skipped" where a real GPU was asked for, and for a failure of the stand-ins.
#include <gtest/gtest.h>

#include <cstdio>

#include "core/cuda/cuda_core.h"
#include "core/cuda_backend.h"
#include "core/error.h"

int main(int count, char** arguments) {
  ::testing::InitGoogleTest(&count, arguments);
  try {
    const ballot::Device device = ballot::find_cuda_device();
    std::printf("device: %s\n", ballot::cuda_core().describe(device).c_str());
  } catch (const ballot::Unavailable& why) {
    std::printf("SKIPPED, no device to test on: %s\n", why.what());
    return 77;
  }
  return RUN_ALL_TESTS();
}
