// Lanes of uint32 (lanes.h) on a GPU: ballots spread into them, and the verdict of their sums.
//
// spread_lanes reads 1/8 byte per element and writes L/8 (L bits a lane); tally_lanes reads L/8 and
// writes 1/8, or 1/4 with ties = hold: at 3.35 TB/s a billion elements of 8 voters (L = 4) take
// 0.19 ms each. Eight threads of a warp write and read 64 bytes beside one another: whole sectors.
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include "collectives/tally_words_cuda.h"
#include "core/cuda/cuda_check.h"
#include "core/cuda/cuda_stream.h"

namespace ballot {
namespace kernels {

constexpr int kTile = 8;  // words of bits whose lanes lie together

constexpr int lane_bits_of(int digits) {
  return digits <= 2 ? 2 : digits <= 4 ? 4 : digits <= 8 ? 8 : 16;
}
// A 1 in the lowest bit of every lane.
__host__ __device__ constexpr Word lowest_bits(int bits) {
  Word mask = 0;
  for (int i = 0; i < 64; i += bits) mask |= Word{1} << i;
  return mask;
}
// Where the lanes of a word begin, as words; the next ones are kTile words on.
__device__ __forceinline__ std::int64_t first_lanes(std::int64_t word, int bits) {
  return word / kTile * kTile * bits + word % kTile;
}

template <int kBits>
__global__ void __launch_bounds__(kTallyThreads)
    spread_lanes(const Word* bits, std::int64_t words, Word* lanes) {
  constexpr Word kLowest = lowest_bits(kBits);
  const std::int64_t word = global_thread();
  if (word >= words) return;
  const Word x = bits[word];
  Word* const out = lanes + first_lanes(word, kBits);
  for (int k = 0; k < kBits; ++k) out[k * kTile] = (x >> k) & kLowest;
}

// The count of one bit, as lane_of() reads it.
template <int kBits>
__device__ __forceinline__ unsigned lane_of(const Word* lanes, std::int64_t bit) {
  const int place = static_cast<int>(bit % 64);
  const Word wide = lanes[first_lanes(bit / 64, kBits) + place % kBits * kTile];
  return static_cast<unsigned>(wide >> (place / kBits * kBits)) & ((1u << kBits) - 1);
}

template <int kDigits>
__global__ void __launch_bounds__(kTallyThreads)
    tally_lanes(Deciding deciding, const Word* lanes, const Word* silent_lanes) {
  constexpr int kBits = lane_bits_of(kDigits);
  constexpr Word kLowest = lowest_bits(kBits);
  decide_words<kDigits>(deciding, [&](std::int64_t word, const WordPlace& place, Word* digits) {
    const auto voters = static_cast<unsigned>(deciding.voters);
    const unsigned silent = lane_of<kBits>(silent_lanes, place.block);
    const Word* const in = lanes + first_lanes(word, kBits);
    Word all = 0;
    for (int k = 0; k < kBits; ++k) {
      const Word wide = in[k * kTile];
      all |= wide;
      for (int digit = 0; digit < kDigits; ++digit)
        digits[digit] |= ((wide >> digit) & kLowest) << k;
    }
    const Word above =
        (all & ~(kLowest * ((Word{1} << kDigits) - 1))) | compare<kDigits>(digits, voters).more;
    if (above != 0 || silent > voters) {  // no sum of so many ballots
      atomicAdd(reinterpret_cast<unsigned long long*>(&deciding.sums->impossible), 1ull);
    }
    return voters - silent;
  });
}

}  // namespace kernels

void PluginVote::spread_lanes(const std::uint64_t* bits, std::int64_t words, int lane_bits,
                              std::uint32_t* lanes, Stream& stream) {
  if (words == 0) return;
  const auto kernel = lane_bits == 2   ? kernels::spread_lanes<2>
                      : lane_bits == 4 ? kernels::spread_lanes<4>
                      : lane_bits == 8 ? kernels::spread_lanes<8>
                                       : kernels::spread_lanes<16>;
  launch(kernel,
         static_cast<unsigned>((words + kernels::kTallyThreads - 1) / kernels::kTallyThreads),
         kernels::kTallyThreads, 0, stream_of(stream), bits, words,
         reinterpret_cast<std::uint64_t*>(lanes));
}

void PluginVote::tally_lanes(const Deciding& deciding, const std::uint32_t* lanes,
                             const std::uint32_t* silent_lanes, Stream& stream) {
  if (deciding.chunk.words == 0) return;
  using Tally = void (*)(Deciding, const kernels::Word*, const kernels::Word*);
  static constexpr Tally kTallies[] = {
      kernels::tally_lanes<1>,  kernels::tally_lanes<2>, kernels::tally_lanes<3>,
      kernels::tally_lanes<4>,  kernels::tally_lanes<5>, kernels::tally_lanes<6>,
      kernels::tally_lanes<7>,  kernels::tally_lanes<8>, kernels::tally_lanes<9>,
      kernels::tally_lanes<10>, kernels::tally_lanes<11>};
  launch(kTallies[kernels::digits_of(deciding.voters) - 1], kernels::tally_blocks(deciding.chunk),
         kernels::kTallyThreads, 0, stream_of(stream), deciding,
         reinterpret_cast<const std::uint64_t*>(lanes),
         reinterpret_cast<const std::uint64_t*>(silent_lanes));
}

}  // namespace ballot
