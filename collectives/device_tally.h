// The tally of one chunk of ballots in a GPU's memory: what tally() gives, bit for bit.
//
// For votes whose ballots travel between GPUs. Made once for a chunk and a number of voters; memory
// is taken then. One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "collectives/cuda_vote.h"
#include "collectives/tally.h"
#include "core/buffer.h"
#include "core/copy.h"  // PinnedBuffer

namespace ballot {

class DeviceTally {
 public:
  // `layout` must outlive it.
  DeviceTally(const BallotLayout& layout, const BallotChunk& chunk, int voters, Device device);

  // As tally() does; all pointers are the device's. Returns before the work is done, unless other
  // ballots than the last time's make it wait for the stream.
  void count(std::span<const BallotPart> ballots, const TallyOptions& options,
             const VerdictPart& verdict, Stream& stream);
  // Of the last count(). Waits for the stream.
  void statistics(VoteStatistics& statistics, Stream& stream) const;

 private:
  std::int64_t sums() const { return 4 + 2 * static_cast<std::int64_t>(ballots_.size()); }

  const BallotLayout& layout_;
  const BallotChunk chunk_;
  std::vector<BallotPart> ballots_;  // of the last count()
  Buffer parts_, segments_, samples_, sums_;
  PinnedBuffer host_;  // ballots on their way there, sums on their way back
  TallyChunk work_{};
};

}  // namespace ballot
