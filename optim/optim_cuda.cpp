#include "optim/optim_cuda.h"

namespace ballot {

CudaOptim& cuda_optim() {
  static auto* optim = new PluginOptim;  // never destroyed, as the plugin is never closed
  return *optim;
}

}  // namespace ballot
