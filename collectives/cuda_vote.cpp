#include "collectives/cuda_vote.h"

#include "core/cuda_backend.h"

namespace ballot {

CudaVote& cuda_vote() {
  return *cuda_backend().vote;
}

}  // namespace ballot
