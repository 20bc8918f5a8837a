// What the kernels of the tally share: a thread has a word of 64 elements, and the digits of its 64
// counts are words in its registers. Where the counts come from (ballots, lanes that were summed,
// planes of several nodes) is the kernel's own; how they become a verdict is here.
//
// For *_cuda.cu files, after core/cuda/kernel.h.
#pragma once

#include <algorithm>

#include "collectives/bit_vector.h"  // low_bits
#include "collectives/vote_cuda.h"

namespace ballot::kernels {

constexpr int kTallyThreads = 256;
constexpr int kBatch = 7;  // ballots that are added at once: what three digits can count

using Word = std::uint64_t;

// Three bits of one weight: their sum, and the carry of twice the weight in `c`.
__device__ __forceinline__ Word add_bits(Word a, Word b, Word& c) {
  const Word sum = a ^ b;
  const Word carry = (a & b) | (sum & c);
  const Word result = sum ^ c;
  c = carry;
  return result;
}

// digits <- digits + the number of ones among seven words.
template <int kDigits>
__device__ __forceinline__ void count_seven(const Word* x, Word* digits) {
  Word a = x[2], b = x[5], c = x[6];
  const Word s = add_bits(x[0], x[1], a);
  const Word t = add_bits(x[3], x[4], b);
  const Word one = add_bits(s, t, c);
  Word four = c;
  const Word two = add_bits(a, b, four);
  // Into the running count.
  Word carry = 0;
  const Word number[3] = {one, two, four};
  for (int k = 0; k < kDigits; ++k) {
    if (k < 3) {
      digits[k] = add_bits(digits[k], number[k], carry);
    } else {
      const Word old = digits[k];
      digits[k] = old ^ carry;
      carry &= old;
    }
  }
}

// Adds up a word of ballots, those that abstain in its block (of the chunk) left out; how many are
// not.
template <int kDigits>
__device__ __forceinline__ unsigned count_word(const BallotPart* ballots, std::int32_t voters,
                                               std::int64_t word, std::int64_t block,
                                               Word* digits) {
  const std::int64_t flags = block / 64;
  const int flag = static_cast<int>(block % 64);
  unsigned voting = static_cast<unsigned>(voters);
  for (std::int32_t first = 0; first < voters; first += kBatch) {
    Word x[kBatch], silent[kBatch];
    for (int i = 0; i < kBatch; ++i) {
      x[i] = silent[i] = 0;
      if (first + i < voters) {
        const BallotPart ballot = ballots[first + i];
        x[i] = ballot.bits[word];
        silent[i] = ballot.abstentions[flags];
      }
    }
    for (int i = 0; i < kBatch; ++i) {
      const Word abstains = (silent[i] >> flag) & 1u;
      x[i] &= abstains - 1;
      voting -= static_cast<unsigned>(abstains);
    }
    count_seven<kDigits>(x, digits);
  }
  return voting;
}

// Bits of a word whose count is above / equal to a number.
struct Comparison {
  Word more = 0, equal = ~Word{0};
};
template <int kDigits>
__device__ __forceinline__ Comparison compare(const Word* digits, unsigned value) {
  Comparison result;
  for (int k = kDigits - 1; k >= 0; --k) {
    if ((value >> k) & 1u) {
      result.equal &= digits[k];
    } else {
      result.more |= result.equal & digits[k];
      result.equal &= ~digits[k];
    }
  }
  return result;
}

// Where a word of a chunk lies.
struct WordPlace {
  std::int32_t number;  // of the segment that holds it, or comes before the padding that does
  DeviceSegment segment;
  std::int64_t inside;  // words from the segment's start
  std::int64_t block;   // of the chunk; no number where the word is padding

  __device__ bool is_padding() const { return inside >= segment.words; }
  __device__ bool begins_block() const {
    return (inside & ((std::int64_t{1} << segment.block_shift) - 1)) == 0;
  }
  __device__ Word real() const {
    const std::int64_t column = segment.row_words == 1 ? 0 : inside % segment.row_words;
    return low_bits(std::min<std::int64_t>(64, segment.cols - column * 64));
  }
};

__device__ __forceinline__ WordPlace place_of(const ChunkPlaces& chunk, std::int64_t word) {
  const std::int64_t place = chunk.first_word + word;
  std::int32_t low = 0, high = chunk.segments;
  while (high - low > 1) {
    const std::int32_t middle = (low + high) / 2;
    if (chunk.layout[middle].word <= place)
      low = middle;
    else
      high = middle;
  }
  WordPlace result;
  result.number = low;
  result.segment = chunk.layout[low];
  result.inside = place - result.segment.word;
  result.block = result.segment.first_block + (result.inside >> result.segment.block_shift) -
                 chunk.first_block;
  return result;
}

// Writes what comparisons need of a word, as tally_counts() does.
template <int kDigits>
__device__ __forceinline__ void take_sample(const Deciding& deciding, std::int64_t word,
                                            const Word* digits, unsigned voting) {
  const ChunkPlaces& chunk = deciding.chunk;
  const std::int64_t run = (chunk.first_word + word) / kSampleRun - chunk.first_word / kSampleRun;
  const Comparison low = compare<kDigits>(digits, voting / 2);
  const Comparison high = compare<kDigits>(digits, voting / 2 + voting % 2);
  deciding.sample[run] = high.more | ~(low.more | low.equal);
  if (voting % 2 != 0)
    atomicOr(
        reinterpret_cast<unsigned*>(deciding.sample + sampled_runs(chunk.first_word, chunk.words)) +
            run / 32,
        1u << (run % 32));
}

// A thread's word of the chunk, if it has one. count(word, place, digits) adds the word's counts to
// `digits`, which are enough for all voters, and returns how many have voted. All threads of a
// block must call it.
template <int kDigits, class Count>
__device__ __forceinline__ void decide_words(const Deciding& deciding, const Count& count) {
  const std::int64_t word = global_thread();
  unsigned ties_found = 0, unanimous_found = 0, blocks_held = 0, elements_held = 0;
  if (word < deciding.chunk.words) {
    const WordPlace place = place_of(deciding.chunk, word);
    if (place.is_padding()) {
      deciding.verdict.bits[word] = 0;
      if (deciding.verdict.held_elements != nullptr) deciding.verdict.held_elements[word] = 0;
    } else {
      Word digits[kDigits] = {};
      const unsigned voting = count(word, place, digits);
      Word real = place.real();
      if (voting == 0) {
        elements_held = static_cast<unsigned>(__popcll(real));
        real = 0;
        if (place.begins_block()) {
          blocks_held = 1;
          atomicOr(reinterpret_cast<unsigned*>(deciding.verdict.held_blocks) + place.block / 32,
                   1u << (place.block % 32));
        }
      }
      Word any = 0, all = ~Word{0};
      for (int k = 0; k < kDigits; ++k) {
        any |= digits[k];
        all &= (voting >> k) & 1u ? digits[k] : ~digits[k];
      }
      const Comparison half = compare<kDigits>(digits, voting / 2);
      const Word ties = voting % 2 == 0 ? half.equal & real : 0;
      Word negative = half.more & real;
      if (!deciding.hold && ties != 0) {
        const auto arena_word = static_cast<std::uint64_t>(place.segment.arena_word + place.inside);
        negative |= mix64(deciding.coin_stream ^ arena_word) & ties;
      }
      deciding.verdict.bits[word] = negative;
      if (deciding.verdict.held_elements != nullptr)
        deciding.verdict.held_elements[word] = deciding.hold ? ties : 0;
      ties_found = static_cast<unsigned>(__popcll(ties));
      unanimous_found = static_cast<unsigned>(__popcll((all | ~any) & real));
      if (deciding.sample != nullptr && is_sampled(deciding.chunk.first_word + word))
        take_sample<kDigits>(deciding, word, digits, voting);
    }
  }
  // Each at most 64 a thread: sixteen bits hold a block's.
  static_assert(64 * kTallyThreads < 65536);
  const auto at = [](unsigned value, int place) {
    return static_cast<Word>(value) << (16 * place);
  };
  const Word sums = block_sum(at(ties_found, 0) + at(unanimous_found, 1) + at(blocks_held, 2) +
                              at(elements_held, 3));
  if (threadIdx.x < 4) {
    const auto value = static_cast<unsigned long long>((sums >> (16 * threadIdx.x)) & 0xffff);
    auto* target = reinterpret_cast<unsigned long long*>(deciding.sums) + threadIdx.x;
    if (value != 0) atomicAdd(target, value);
  }
}

inline unsigned tally_blocks(const ChunkPlaces& chunk) {
  return static_cast<unsigned>((chunk.words + kTallyThreads - 1) / kTallyThreads);
}
// How many digits counts of so many voters have.
inline int digits_of(int voters) {
  int digits = 0;
  while (voters >> digits != 0) ++digits;
  return digits;
}

}  // namespace ballot::kernels
