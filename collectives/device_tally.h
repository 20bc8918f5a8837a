// The tally of one chunk of ballots in a GPU's memory: what tally() gives, bit for bit.
//
// For votes whose ballots travel between GPUs. Made once for a chunk and a number of voters; memory
// is taken then. One thread at a time.
#pragma once

#include <span>

#include "collectives/device_chunk.h"

namespace ballot {

class DeviceTally {
 public:
  // `layout` must outlive it.
  DeviceTally(const BallotLayout& layout, const BallotChunk& chunk, int voters, Device device);

  // Where the ballots lie that will be counted; waits for the stream unless it knows them already.
  void take(std::span<const BallotPart> ballots, Stream& stream) { ballots_.take(ballots, stream); }
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
  const DeviceChunk chunk_;
  const std::size_t voters_;
  DeviceBallots ballots_;
  DeviceDecision decision_;
  DeviceComparison comparison_;
  Buffer sample_;
};

}  // namespace ballot
