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

// A sampled word of a chunk (tally.h), for the comparison of its voters.
struct DeviceSample {
  std::uint64_t agree_negative, agree_positive, compare_negative, compare_positive;
  std::int64_t word, block;  // of the chunk
};

// What a tally adds up; of each of the chunk's segments, agreed and then compared of each voter
// follow.
struct DeviceSums {
  std::int64_t ties, unanimous, held_blocks, held_elements;
};

// tally() of one chunk.
struct TallyChunk {
  const BallotPart* ballots;  // of device memory
  std::int32_t voters, segments;
  const DeviceSegment* layout;
  std::int64_t first_word, words;  // of the ballot
  std::int64_t first_block;
  bool hold;
  std::uint64_t coin_stream;  // tie_coin_stream()
  VerdictPart verdict;        // held_blocks zeroed before
  std::int64_t samples;       // runs of kSampleRun words that the chunk has a part of
  DeviceSample* sample;       // one for each, zeros before the first tally
  DeviceSums* sums;           // zeroed before, with segments x 2 x voters counts after it
};

struct CudaVote {
  virtual ~CudaVote() = default;

  // *threshold <- the largest float not above abstain_below times the matrix' root mean square,
  // which is summed in collectives/ballot.cpp's order. `row_sums` has a double for each row.
  virtual void find_threshold(const Tensor& direction, double abstain_below, double* row_sums,
                              float* threshold, Stream& stream) = 0;
  virtual void pack_signs(const PackSigns& pack, Stream& stream) = 0;
  virtual void tally(const TallyChunk& chunk, Stream& stream) = 0;
};

// The plugin's; throws as cuda_backend() does. (The plugin itself has another, in vote_cuda.cpp.)
CudaVote& cuda_vote();

}  // namespace ballot
