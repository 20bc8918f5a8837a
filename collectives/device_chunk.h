// A chunk of the ballot in a GPU's memory: where its words lie, how counts of them become a
// verdict, and how voters agree with it. What DeviceTally and the votes between GPUs are made of.
//
// Memory is taken when these are made. Work is given to streams; what is fetched behind it may be
// read once the stream has come past the fetch, before the next begin() or compare(). One thread at
// a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "collectives/cuda_vote.h"
#include "collectives/tally.h"
#include "core/buffer.h"
#include "core/copy.h"  // PinnedBuffer

namespace ballot {

class DeviceChunk {
 public:
  // `layout` must outlive it.
  DeviceChunk(const BallotLayout& layout, const BallotChunk& chunk, Device device);

  const BallotLayout& layout() const { return layout_; }
  const BallotChunk& chunk() const { return chunk_; }
  Device device() const { return segments_.device(); }
  const ChunkPlaces& places() const { return places_; }
  std::size_t first_segment() const { return first_segment_; }
  std::size_t segment_count() const { return segment_count_; }

 private:
  const BallotLayout& layout_;
  const BallotChunk chunk_;
  std::size_t first_segment_, segment_count_;
  Buffer segments_;
  ChunkPlaces places_{};
};

// Where ballots lie, told to the device.
class DeviceBallots {
 public:
  DeviceBallots(std::size_t count, Device device);
  // Waits for the stream unless it knows these already.
  void take(std::span<const BallotPart> ballots, Stream& stream);
  const BallotPart* places() const { return places_.as<BallotPart>(); }  // of device memory

 private:
  std::vector<BallotPart> known_;
  Buffer places_;
  PinnedBuffer host_;
};

// What decides a chunk once a step.
class DeviceDecision {
 public:
  // `chunk` must outlive it.
  DeviceDecision(const DeviceChunk& chunk, int voters);
  // What a kernel is given that decides; all pointers are the device's. What it adds up to is
  // zeroed in the stream's order. `sample`: device_sample_words(), or null.
  Deciding begin(const TallyOptions& options, const VerdictPart& verdict, std::uint64_t* sample,
                 Stream& stream);
  void fetch(Stream& stream) const;
  // All but `agreed` and `compared`. False where some count was above the number of voters.
  bool read(VoteStatistics& statistics) const;

 private:
  const DeviceChunk& chunk_;
  const int voters_;
  Buffer sums_;
  PinnedBuffer host_;
};

// How some voters of a chunk agree with its verdict.
class DeviceComparison {
 public:
  // `chunk` must outlive it.
  DeviceComparison(const DeviceChunk& chunk, std::size_t voters);
  // `ballots`: as many as voters, of device memory, as are the bits and the sample of the verdict.
  void compare(const BallotPart* ballots, const std::uint64_t* bits, const std::uint64_t* sample,
               Stream& stream);
  void fetch(Stream& stream) const;
  // Adds to `agreed` and `compared`, which have as many as voters, and to by_segment's voters from
  // `first_voter` on, unless it is null.
  void read(std::span<std::int64_t> agreed, std::span<std::int64_t> compared,
            SegmentAgreement* by_segment, std::size_t first_voter) const;

 private:
  const DeviceChunk& chunk_;
  const std::size_t voters_;
  Buffer sums_;
  PinnedBuffer host_;
};

}  // namespace ballot
