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
  void tally(const Deciding& deciding, const BallotPart* ballots, Stream& stream) override;
  void compare(const Comparing& comparing, Stream& stream) override;
  // lanes_cuda.cu
  void spread_lanes(const std::uint64_t* bits, std::int64_t words, int lane_bits,
                    std::uint32_t* lanes, Stream& stream) override;
  void tally_lanes(const Deciding& deciding, const std::uint32_t* lanes,
                   const std::uint32_t* silent_lanes, Stream& stream) override;
  // count_planes_cuda.cu
  void count_ballots(const ChunkPlaces& chunk, const BallotPart* ballots, int voters,
                     const DeviceCounts& out, Stream& stream) override;
  void tally_counts(const Deciding& deciding, const DeviceCounts* parts, int part_count,
                    int part_voters, Stream& stream) override;
};

}  // namespace ballot
