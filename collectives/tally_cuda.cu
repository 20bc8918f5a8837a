// Ballots counted into a verdict, bit-sliced, with the bits of tally.cpp, and voters compared with
// it.
//
// tally_ballots reads W/8 bytes per element (and W/4096 of abstentions, 1/64 at worst) and writes
// 1/8, or 1/4 with ties = hold: at 3.35 TB/s a billion elements of 8 voters take 0.36 ms, of 64
// voters 2.6 ms. compare_voters reads one word in 64 of a ballot and of the verdict again, in
// sectors of 32 bytes: a sixteenth of each, and adds to two sums of the tensor for each, in the
// level-two cache.
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include "collectives/tally_words_cuda.h"
#include "core/cuda/cuda_check.h"
#include "core/cuda/cuda_stream.h"

namespace ballot {
namespace kernels {

constexpr int kRunsOfBlock = 16 * kTallyThreads;  // of compare_voters

template <int kDigits>
__global__ void __launch_bounds__(kTallyThreads)
    tally_ballots(Deciding deciding, const BallotPart* ballots) {
  decide_words<kDigits>(deciding, [&](std::int64_t word, const WordPlace& place, Word* digits) {
    return count_word<kDigits>(ballots, deciding.voters, word, place.block, digits);
  });
}

// A block compares one voter (its y) on kRunsOfBlock runs, leave-one-out, as compare_voter() does.
__global__ void __launch_bounds__(kTallyThreads) compare_voters(Comparing comparing) {
  const ChunkPlaces& chunk = comparing.chunk;
  const BallotPart ballot = comparing.ballots[blockIdx.y];
  const std::int64_t runs = sampled_runs(chunk.first_word, chunk.words);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kRunsOfBlock;
  const std::int64_t last = std::min(runs, first + kRunsOfBlock);
  for (std::int64_t run = first + threadIdx.x; run < last; run += kTallyThreads) {
    const std::int64_t word = sampled_word(chunk.first_word / kSampleRun + run) - chunk.first_word;
    if (word < 0 || word >= chunk.words) continue;  // another chunk's
    const WordPlace place = place_of(chunk, word);
    if (place.is_padding()) continue;
    if ((ballot.abstentions[place.block / 64] >> (place.block % 64)) & 1u) continue;
    const Word same = ~(ballot.bits[word] ^ comparing.bits[word]), real = place.real();
    const Word firm = comparing.sample[run];
    const Word odd = (comparing.sample[runs + run / 64] >> (run % 64)) & 1u;
    const int agreed = __popcll(same & firm & real);
    // One vote ahead, and that is this voter's: without it the others are even.
    const int compared = __popcll(~(same & ~firm & (Word{0} - odd)) & real);
    auto* target = reinterpret_cast<unsigned long long*>(comparing.sums) +
                   2 * std::int64_t{place.number} * comparing.voters + blockIdx.y;
    atomicAdd(target, static_cast<unsigned long long>(agreed));
    atomicAdd(target + comparing.voters, static_cast<unsigned long long>(compared));
  }
}

}  // namespace kernels

void PluginVote::tally(const Deciding& deciding, const BallotPart* ballots, Stream& stream) {
  if (deciding.chunk.words == 0) return;
  using Tally = void (*)(Deciding, const BallotPart*);
  static constexpr Tally kTallies[] = {
      kernels::tally_ballots<1>,  kernels::tally_ballots<2>, kernels::tally_ballots<3>,
      kernels::tally_ballots<4>,  kernels::tally_ballots<5>, kernels::tally_ballots<6>,
      kernels::tally_ballots<7>,  kernels::tally_ballots<8>, kernels::tally_ballots<9>,
      kernels::tally_ballots<10>, kernels::tally_ballots<11>};
  launch(kTallies[kernels::digits_of(deciding.voters) - 1], kernels::tally_blocks(deciding.chunk),
         kernels::kTallyThreads, 0, stream_of(stream), deciding, ballots);
}

void PluginVote::compare(const Comparing& comparing, Stream& stream) {
  const std::int64_t runs = sampled_runs(comparing.chunk.first_word, comparing.chunk.words);
  if (runs == 0) return;
  const dim3 grid(static_cast<unsigned>((runs + kernels::kRunsOfBlock - 1) / kernels::kRunsOfBlock),
                  static_cast<unsigned>(comparing.voters));
  launch(kernels::compare_voters, grid, kernels::kTallyThreads, 0, stream_of(stream), comparing);
}

}  // namespace ballot
