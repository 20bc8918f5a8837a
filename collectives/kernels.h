// The inner loops of casting and counting, compiled once for each instruction set (kernel_loops.h)
// and chosen when they are first used. All give the same bits. Private to the vote, its tests and
// its benchmarks.
//
// Words are of bits, 64 elements each; counts of words are multiples of 8. A plane is a row of
// words; plane k of a count lies `stride` words after plane k - 1 and holds digit k.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ballot {

inline constexpr int kMaxDigits = 11;  // counts up to 1024
inline constexpr int kBatch = 15;      // ballots that are added at once: what four digits can count

// What pack_blocks finds out about a block.
inline constexpr std::uint8_t kBlockIsSilent = 1;  // largest magnitude at most the threshold
inline constexpr std::uint8_t kBlockHasZeros = 2;

struct Election {
  const std::uint64_t* planes;
  std::int64_t stride;
  int digits;
  std::int64_t words;
  int voting;                         // voters of every word, or
  const std::uint64_t* voting_words;  // (if not null) of each word, and
  const std::uint64_t* real;          // elements that count, 0 where nobody votes; null = all
  bool hold;                          // ties: held, or coins
  std::uint64_t coin_stream;          // tie_coin_stream()
  std::uint64_t arena_word;           // names the first word's coins
  std::uint64_t* bits;
  std::uint64_t* held;  // may be null
};
struct ElectionSums {
  std::int64_t ties = 0, unanimous = 0;
};

// Bits of eight words that a negative / positive voter agrees with, and that it is compared in.
struct SampleMasks {
  std::uint64_t agree_negative[8], agree_positive[8], compare_negative[8], compare_positive[8];
};

struct Kernels {
  const char* name;
  // Signs of `blocks` blocks of block_words * 64 floats; one byte of flags a block. Returns all
  // flags together.
  std::uint8_t (*pack_blocks)(const float* x, std::int64_t blocks, std::int64_t block_words,
                              double threshold, std::uint64_t* bits, std::uint8_t* flags);
  // planes <- (add ? planes : 0) + number of negatives among `count` (1 to kBatch) ballots.
  void (*count_ballots)(const std::uint64_t* const* ballots, int count, std::int64_t words,
                        bool add, std::uint64_t* planes, std::int64_t stride, int digits);
  // planes <- (add ? planes : 0) + part.
  void (*add_planes)(const std::uint64_t* part, std::int64_t part_stride, int part_digits,
                     std::int64_t words, bool add, std::uint64_t* planes, std::int64_t stride,
                     int digits);
  ElectionSums (*elect)(const Election& election);
  // Adds each voter's popcounts over its eight words of the sample, which lie one voter after
  // another; `votes` (null = all) has a bit for each of the eight.
  void (*compare_sample)(const std::uint64_t* sample, int voters, const SampleMasks& masks,
                         const std::uint8_t* votes, std::int64_t* agreed, std::int64_t* compared);
};

// The versions this processor can run, the best one first; the portable one is always last.
std::size_t kernel_versions();
const Kernels& kernel_version(std::size_t index);

// What the vote uses: version 0, or what a test has chosen. Changed only while nothing votes.
const Kernels& kernels();
void choose_kernels(const Kernels& version);

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace ballot
