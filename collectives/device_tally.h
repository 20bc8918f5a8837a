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

  // Where the ballots lie that will be counted; waits for the stream unless it knows them already.
  void take(std::span<const BallotPart> ballots, Stream& stream);
  // As tally() does; all pointers are the device's. Returns before the work is done, unless it has
  // to take() the ballots first.
  void count(std::span<const BallotPart> ballots, const TallyOptions& options,
             const VerdictPart& verdict, Stream& stream);
  // Of the last count(). Waits for the stream.
  void statistics(VoteStatistics& statistics, Stream& stream) const;
  // The same in two steps: fetched behind the count in a stream's order, and read once that stream
  // has come past it, before the next count().
  void fetch_statistics(Stream& stream) const;
  // Adds to `by_segment`, unless it is null.
  void read_statistics(VoteStatistics& statistics, SegmentAgreement* by_segment = nullptr) const;

 private:
  std::size_t sums() const { return 4 + 2 * ballots_.size() * segment_count_; }

  const BallotLayout& layout_;
  const BallotChunk chunk_;
  std::size_t first_segment_, segment_count_;
  std::vector<BallotPart> ballots_;  // of the last count()
  Buffer parts_, segments_, samples_, sums_;
  PinnedBuffer host_;  // ballots on their way there, sums on their way back
  TallyChunk work_{};
};

}  // namespace ballot
