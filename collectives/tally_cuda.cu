// Ballots counted into a verdict, bit-sliced, with the bits of tally.cpp: a thread has a word of 64
// elements, and the digits of its 64 counts are words in its registers.
//
// tally_words reads W/8 bytes per element (and W/4096 of abstentions, 1/64 at worst) and writes
// 1/8, or 1/4 with ties = hold: at 3.35 TB/s a billion elements of 8 voters take 0.36 ms, of 64
// voters 2.6 ms. compare_voters reads one word in 64 again, in sectors of 32 bytes: a sixteenth of
// that, and adds to two sums of the tensor for each, in the level-two cache.
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include <algorithm>

#include "collectives/bit_vector.h"  // low_bits
#include "collectives/vote_cuda.h"
#include "core/cuda/cuda_check.h"
#include "core/cuda/cuda_stream.h"

namespace ballot {
namespace kernels {

constexpr int kThreads = 256;
constexpr int kBatch = 7;  // ballots that are added at once: what three digits can count
constexpr int kRunsOfBlock = 16 * kThreads;  // of compare_voters

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

// The segment that holds this word of the ballot, or comes before the padding that does.
__device__ __forceinline__ std::int32_t segment_of(const TallyChunk& chunk, std::int64_t word) {
  std::int32_t low = 0, high = chunk.segments;
  while (high - low > 1) {
    const std::int32_t middle = (low + high) / 2;
    if (chunk.layout[middle].word <= word)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Leave-one-out, as tally.cpp says.
template <int kDigits>
__device__ __forceinline__ DeviceSample sample_of(const Word* digits, unsigned voters, Word real,
                                                  std::int64_t word, std::int64_t block) {
  DeviceSample sample;
  const Comparison half = compare<kDigits>(digits, voters / 2);
  sample.agree_positive = real & ~(half.more | half.equal);
  if (voters % 2 == 0) {
    sample.agree_negative = real & half.more;
    sample.compare_negative = sample.compare_positive = real;
  } else {
    const Comparison high = compare<kDigits>(digits, (voters + 1) / 2);
    sample.agree_negative = real & high.more;
    sample.compare_negative = real & ~high.equal;
    sample.compare_positive = real & ~half.equal;
  }
  sample.word = word;
  sample.block = block;
  return sample;
}

// kDigits can count all voters.
template <int kDigits>
__global__ void __launch_bounds__(kThreads) tally_words(TallyChunk chunk) {
  const std::int64_t word = global_thread();
  unsigned ties_found = 0, unanimous_found = 0, blocks_held = 0, elements_held = 0;
  if (word < chunk.words) {
    const std::int64_t place = chunk.first_word + word;
    const DeviceSegment segment = chunk.layout[segment_of(chunk, place)];
    const std::int64_t inside = place - segment.word;
    if (inside >= segment.words) {  // padding between segments
      chunk.verdict.bits[word] = 0;
      if (chunk.verdict.held_elements != nullptr) chunk.verdict.held_elements[word] = 0;
    } else {
      const std::int64_t block =
          segment.first_block + (inside >> segment.block_shift) - chunk.first_block;
      const std::int64_t flags = block / 64;
      const int flag = static_cast<int>(block % 64);
      Word digits[kDigits] = {};
      unsigned voting = static_cast<unsigned>(chunk.voters);
      for (std::int32_t first = 0; first < chunk.voters; first += kBatch) {
        Word x[kBatch], silent[kBatch];
        for (int i = 0; i < kBatch; ++i) {
          x[i] = silent[i] = 0;
          if (first + i < chunk.voters) {
            const BallotPart ballot = chunk.ballots[first + i];
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

      const std::int64_t column = segment.row_words == 1 ? 0 : inside % segment.row_words;
      Word real = low_bits(std::min<std::int64_t>(64, segment.cols - column * 64));
      if (voting == 0) {
        elements_held = static_cast<unsigned>(__popcll(real));
        real = 0;
        if ((inside & ((std::int64_t{1} << segment.block_shift) - 1)) == 0) {
          blocks_held = 1;
          atomicOr(reinterpret_cast<unsigned*>(chunk.verdict.held_blocks) + block / 32,
                   1u << (block % 32));
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
      if (!chunk.hold && ties != 0) {
        const auto arena_word = static_cast<std::uint64_t>(segment.arena_word + inside);
        negative |= mix64(chunk.coin_stream ^ arena_word) & ties;
      }
      chunk.verdict.bits[word] = negative;
      if (chunk.verdict.held_elements != nullptr)
        chunk.verdict.held_elements[word] = chunk.hold ? ties : 0;
      ties_found = static_cast<unsigned>(__popcll(ties));
      unanimous_found = static_cast<unsigned>(__popcll((all | ~any) & real));
      if (is_sampled(place)) {
        const std::int64_t run = place / kSampleRun - chunk.first_word / kSampleRun;
        chunk.sample[run] = sample_of<kDigits>(digits, voting, real, word, block);
      }
    }
  }
  // Each at most 64 a thread: sixteen bits hold a block's.
  static_assert(64 * kThreads < 65536);
  const auto at = [](unsigned value, int place) {
    return static_cast<Word>(value) << (16 * place);
  };
  const Word sums = block_sum(at(ties_found, 0) + at(unanimous_found, 1) + at(blocks_held, 2) +
                              at(elements_held, 3));
  if (threadIdx.x < 4) {
    const auto value = static_cast<unsigned long long>((sums >> (16 * threadIdx.x)) & 0xffff);
    auto* target = reinterpret_cast<unsigned long long*>(chunk.sums) + threadIdx.x;
    if (value != 0) atomicAdd(target, value);
  }
}

// A block compares one voter (its y) on kRunsOfBlock runs.
__global__ void __launch_bounds__(kThreads) compare_voters(TallyChunk chunk) {
  const BallotPart ballot = chunk.ballots[blockIdx.y];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kRunsOfBlock;
  const std::int64_t last = std::min(chunk.samples, first + kRunsOfBlock);
  for (std::int64_t run = first + threadIdx.x; run < last; run += kThreads) {
    const DeviceSample sample = chunk.sample[run];
    if ((ballot.abstentions[sample.block / 64] >> (sample.block % 64)) & 1u) continue;
    const Word x = ballot.bits[sample.word];
    const int agreed = __popcll((x & sample.agree_negative) | (~x & sample.agree_positive));
    const int compared = __popcll((x & sample.compare_negative) | (~x & sample.compare_positive));
    if (compared == 0) continue;
    const std::int64_t segment = segment_of(chunk, chunk.first_word + sample.word);
    auto* target = reinterpret_cast<unsigned long long*>(chunk.sums + 1) +
                   2 * segment * chunk.voters + blockIdx.y;
    atomicAdd(target, static_cast<unsigned long long>(agreed));
    atomicAdd(target + chunk.voters, static_cast<unsigned long long>(compared));
  }
}

}  // namespace kernels

void PluginVote::tally(const TallyChunk& chunk, Stream& stream) {
  if (chunk.words == 0) return;
  using Tally = void (*)(TallyChunk);
  static constexpr Tally kTallies[] = {
      kernels::tally_words<1>,  kernels::tally_words<2>, kernels::tally_words<3>,
      kernels::tally_words<4>,  kernels::tally_words<5>, kernels::tally_words<6>,
      kernels::tally_words<7>,  kernels::tally_words<8>, kernels::tally_words<9>,
      kernels::tally_words<10>, kernels::tally_words<11>};
  int digits = 0;
  while (chunk.voters >> digits != 0) ++digits;
  launch(kTallies[digits - 1],
         static_cast<unsigned>((chunk.words + kernels::kThreads - 1) / kernels::kThreads),
         kernels::kThreads, 0, stream_of(stream), chunk);
  const dim3 grid(
      static_cast<unsigned>((chunk.samples + kernels::kRunsOfBlock - 1) / kernels::kRunsOfBlock),
      static_cast<unsigned>(chunk.voters));
  launch(kernels::compare_voters, grid, kernels::kThreads, 0, stream_of(stream), chunk);
}

}  // namespace ballot
