// The vote's kernels as the CUDA backend implements them; each does what collectives/ballot.h and
// tally.h say, on device memory, asynchronously on the stream, with the bits of the CPU.
//
// What the op's own file has checked is not checked again; memory that a kernel needs beside its
// operands is handed in. All pointers are the device's.
#pragma once

#include <cstdint>

#include "collectives/tally.h"  // BallotPart, VerdictPart
#include "core/device.h"        // Stream
#include "core/tensor.h"        // Tensor

namespace ballot {

// One segment's signs: what cast_ballot() asks for.
struct PackSigns {
  const float* direction;  // padding columns are not looked at
  std::int64_t rows, cols, row_stride;
  std::int64_t block;               // elements
  std::int64_t arena_word;          // names the first word's coins
  std::uint64_t coin_stream;        // zero_coin_stream()
  const float* threshold;           // a block abstains up to this magnitude; null: 0
  const std::uint8_t* silent_rows;  // null: none
  const double* gate;               // null, or: nothing is said unless it is finite
  std::uint64_t* bits;              // from the segment's first element
  std::uint64_t* abstentions;       // from its first block on, zeroed before
};

// Where the words of a ballot lie: one for each segment that the chunk has words of, in order.
struct DeviceSegment {
  std::int64_t word, words;  // of the ballot; words of padding follow
  std::int64_t row_words, cols;
  std::int64_t first_block;  // of the ballot
  std::int64_t arena_word;
  std::int64_t block_shift;  // a block is 1 << block_shift words
};

// A chunk, whose words and blocks are counted from its first below.
struct ChunkPlaces {
  const DeviceSegment* layout;
  std::int32_t segments;
  std::int64_t first_word, words;  // of the ballot
  std::int64_t first_block;
};

// What voters are compared with (count_planes.h's sample): of each run of kSampleRun words that the
// chunk has a part of, the sampled word's elements in which the count is two or more from even;
// then, bit by run, whether the number of those who voted is odd.
constexpr std::int64_t sampled_runs(std::int64_t first_word, std::int64_t words) {
  return words == 0 ? 0 : (first_word + words - 1) / kSampleRun - first_word / kSampleRun + 1;
}
inline std::int64_t device_sample_words(const BallotChunk& chunk) {
  const std::int64_t runs = sampled_runs(chunk.begin / 64, chunk.word_count());
  return runs + (runs + 63) / 64;
}

// What a chunk's verdict adds up. impossible: counts above the number of voters, a word at a time.
struct DeviceSums {
  std::int64_t ties, unanimous, held_blocks, held_elements, impossible;
};

// How the counts of a chunk's words become its verdict.
struct Deciding {
  ChunkPlaces chunk;
  std::int32_t voters;
  bool hold;
  std::uint64_t coin_stream;  // tie_coin_stream()
  VerdictPart verdict;        // held_blocks zeroed before
  std::uint64_t* sample;      // zeroed before; null: nobody is compared
  DeviceSums* sums;           // zeroed before
};

// Counts as a CountPart has them; planes are as far apart as the chunk has words.
struct DeviceCounts {
  std::uint64_t* planes;
  std::uint16_t* voting;
};

// How voters agree with the others: agreed and then compared of each voter, segment by segment, is
// added to `sums`.
struct Comparing {
  ChunkPlaces chunk;
  const BallotPart* ballots;  // of device memory
  std::int32_t voters;
  const std::uint64_t *bits, *sample;  // of the verdict
  std::int64_t* sums;
};

struct CudaVote {
  virtual ~CudaVote() = default;

  // *threshold <- the largest float not above abstain_below times the matrix' root mean square,
  // which is summed in collectives/ballot.cpp's order. `row_sums` has a double for each row.
  virtual void find_threshold(const Tensor& direction, double abstain_below, double* row_sums,
                              float* threshold, Stream& stream) = 0;
  virtual void pack_signs(const PackSigns& pack, Stream& stream) = 0;
  // tally() of deciding.voters ballots, whose places are the device's.
  virtual void tally(const Deciding& deciding, const BallotPart* ballots, Stream& stream) = 0;
  virtual void compare(const Comparing& comparing, Stream& stream) = 0;

  // lanes.h: expand_lanes(), and the verdict of lanes that were summed. silent_lanes: of the
  // chunk's abstentions.
  virtual void spread_lanes(const std::uint64_t* bits, std::int64_t words, int lane_bits,
                            std::uint32_t* lanes, Stream& stream) = 0;
  virtual void tally_lanes(const Deciding& deciding, const std::uint32_t* lanes,
                           const std::uint32_t* silent_lanes, Stream& stream) = 0;

  // count_planes.h: count_ballots(), and the verdict of `parts` counts of `part_voters` each, whose
  // places are the device's.
  virtual void count_ballots(const ChunkPlaces& chunk, const BallotPart* ballots, int voters,
                             const DeviceCounts& out, Stream& stream) = 0;
  virtual void tally_counts(const Deciding& deciding, const DeviceCounts* parts, int part_count,
                            int part_voters, Stream& stream) = 0;
};

// The plugin's; throws as cuda_backend() does. (The plugin itself has another, in vote_cuda.cpp.)
CudaVote& cuda_vote();

}  // namespace ballot
