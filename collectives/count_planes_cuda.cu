// Counts as bit planes (count_planes.h) on a GPU: a node's ballots added up, and the verdict of the
// counts of all nodes.
//
// count_ballots reads G/8 bytes per element of G ballots and writes d/8 (d digits); tally_counts
// reads M d/8 of M nodes and writes 1/8, or 1/4 with ties = hold: for 8 ballots (d = 4) of a
// billion elements 0.45 ms, for 4 nodes of 8 0.63 ms at 3.35 TB/s. Every rank does the one for its
// node's slice and the other for a chunk of it: 1/G and 1/(G M) of the elements.
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include "collectives/tally_words_cuda.h"
#include "core/cuda/cuda_check.h"
#include "core/cuda/cuda_stream.h"

namespace ballot {
namespace kernels {

template <int kDigits>
__global__ void __launch_bounds__(kTallyThreads)
    count_ballots(ChunkPlaces chunk, const BallotPart* ballots, std::int32_t voters,
                  DeviceCounts out) {
  const std::int64_t word = global_thread();
  if (word >= chunk.words) return;
  const WordPlace place = place_of(chunk, word);
  Word digits[kDigits] = {};
  if (!place.is_padding()) {
    const unsigned voting = count_word<kDigits>(ballots, voters, word, place.block, digits);
    if (place.begins_block()) out.voting[place.block] = static_cast<std::uint16_t>(voting);
  }
  for (int k = 0; k < kDigits; ++k) out.planes[k * chunk.words + word] = digits[k];
}

template <int kDigits>
__global__ void __launch_bounds__(kTallyThreads)
    tally_counts(Deciding deciding, const DeviceCounts* parts, int part_count, int part_digits) {
  decide_words<kDigits>(deciding, [&](std::int64_t word, const WordPlace& place, Word* digits) {
    unsigned voting = 0;
    for (int p = 0; p < part_count; ++p) {
      const DeviceCounts part = parts[p];
      Word carry = 0;
      for (int k = 0; k < kDigits; ++k) {
        const Word digit = k < part_digits ? part.planes[k * deciding.chunk.words + word] : 0;
        digits[k] = add_bits(digits[k], digit, carry);
      }
      voting += part.voting[place.block];
    }
    return voting;
  });
}

}  // namespace kernels

void PluginVote::count_ballots(const ChunkPlaces& chunk, const BallotPart* ballots, int voters,
                               const DeviceCounts& out, Stream& stream) {
  if (chunk.words == 0) return;
  using Count = void (*)(ChunkPlaces, const BallotPart*, std::int32_t, DeviceCounts);
  static constexpr Count kCounts[] = {
      kernels::count_ballots<1>,  kernels::count_ballots<2>, kernels::count_ballots<3>,
      kernels::count_ballots<4>,  kernels::count_ballots<5>, kernels::count_ballots<6>,
      kernels::count_ballots<7>,  kernels::count_ballots<8>, kernels::count_ballots<9>,
      kernels::count_ballots<10>, kernels::count_ballots<11>};
  launch(kCounts[kernels::digits_of(voters) - 1], kernels::tally_blocks(chunk),
         kernels::kTallyThreads, 0, stream_of(stream), chunk, ballots,
         static_cast<std::int32_t>(voters), out);
}

void PluginVote::tally_counts(const Deciding& deciding, const DeviceCounts* parts, int part_count,
                              int part_voters, Stream& stream) {
  if (deciding.chunk.words == 0) return;
  using Tally = void (*)(Deciding, const DeviceCounts*, int, int);
  static constexpr Tally kTallies[] = {
      kernels::tally_counts<1>,  kernels::tally_counts<2>, kernels::tally_counts<3>,
      kernels::tally_counts<4>,  kernels::tally_counts<5>, kernels::tally_counts<6>,
      kernels::tally_counts<7>,  kernels::tally_counts<8>, kernels::tally_counts<9>,
      kernels::tally_counts<10>, kernels::tally_counts<11>};
  launch(kTallies[kernels::digits_of(deciding.voters) - 1], kernels::tally_blocks(deciding.chunk),
         kernels::kTallyThreads, 0, stream_of(stream), deciding, parts, part_count,
         kernels::digits_of(part_voters));
}

}  // namespace ballot
