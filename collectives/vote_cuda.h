// CudaVote as the plugin implements it, one *_cuda.cu file for each concept. Inside the plugin
// only.
#pragma once

#include "collectives/cuda_vote.h"

namespace ballot {

class PluginVote final : public CudaVote {
 public:
  // ballot_cuda.cu
  void find_threshold(const Tensor& direction, double abstain_below, double* row_sums,
                      float* threshold, Stream& stream) override;
  void pack_signs(const PackSigns& pack, Stream& stream) override;
  // tally_cuda.cu
  void tally(const TallyChunk& chunk, Stream& stream) override;
};

}  // namespace ballot
