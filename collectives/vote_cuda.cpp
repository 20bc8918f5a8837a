#include "collectives/vote_cuda.h"

namespace ballot {

CudaVote& cuda_vote() {
  static auto* vote = new PluginVote;  // never destroyed, as the plugin is never closed
  return *vote;
}

}  // namespace ballot
