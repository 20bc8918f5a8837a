// The plugin's one instance of its model ops.
#include "models/ops/model_ops_cuda.h"

namespace ballot {

CudaModelOps& cuda_model_ops() {
  static PluginModelOps ops;
  return ops;
}

}  // namespace ballot
