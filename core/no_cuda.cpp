// A build without the CUDA backend: asked for and not there is an error, never a silent fallback.
#include "core/cuda_backend.h"
#include "core/error.h"

namespace ballot {

Device find_cuda_device() {
  throw Unavailable(
      "device = \"cuda\": this build has no CUDA backend; use device = \"cpu\" or \"auto\"");
}

}  // namespace ballot
