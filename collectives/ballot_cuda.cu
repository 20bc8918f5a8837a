// Signs of a direction packed by warp votes, with the bits of ballot.cpp.
//
// pack_signs moves 4.125 bytes per element: at 3.35 TB/s a billion elements take 1.2 ms. Where
// abstain_below is not 0 the matrix is read once more for its root mean square (another 1.2 ms).
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include <algorithm>

#include "collectives/bit_vector.h"  // low_bits
#include "collectives/row_squares_cuda.h"
#include "collectives/vote_cuda.h"
#include "core/cuda/cuda_stream.h"
#include "core/cuda/is_finite.h"
#include "core/hash.h"

namespace ballot {
namespace kernels {

constexpr int kThreads = 256;
constexpr int kQuad = 4;                   // elements of a lane's 16 bytes
constexpr int kGroup = kQuad * kWarpSize;  // elements that a warp loads at once: two words
constexpr int kGroups = 8;                 // of a warp, so that each lane writes half a word
constexpr int kSpan = kGroup * kGroups;    // elements of a warp: whole blocks of any size
constexpr int kRmsPieces = 64;             // ballot.cpp's

// Bit i of the lowest byte moves to bit 4 i.
__device__ __forceinline__ unsigned spread(unsigned x) {
  x = (x | (x << 12)) & 0x000f000fu;
  x = (x | (x << 6)) & 0x03030303u;
  return (x | (x << 3)) & 0x11111111u;
}

// Of the lanes' quads of kGroups groups: this lane's 32 bits. vote(group, i) is the warp's vote on
// element i of every lane's quad.
template <class Vote>
__device__ __forceinline__ unsigned gather_bits(const Vote& vote) {
  const int group = lane_index() / 4, byte = lane_index() % 4;
  unsigned mine[kQuad] = {};
  for (int g = 0; g < kGroups; ++g)
    for (int i = 0; i < kQuad; ++i) {
      const unsigned votes = vote(g, i);
      if (g == group) mine[i] = votes;
    }
  unsigned bits = 0;
  for (int i = 0; i < kQuad; ++i) bits |= spread((mine[i] >> (8 * byte)) & 0xffu) << i;
  return bits;
}

// A warp has kSpan elements of the segment, counted from its start. Nobody leaves early: the warp
// votes. kWhole: rows without padding.
template <bool kWhole>
__global__ void __launch_bounds__(kThreads) pack_signs(PackSigns pack) {
  const std::int64_t span = global_thread() / kWarpSize * kSpan;
  const std::int64_t extent = pack.rows * pack.row_stride;
  const float threshold = pack.threshold == nullptr ? 0.0f : *pack.threshold;
  const int lane = lane_index();

  Pack<float> x[kGroups] = {};
  for (int g = 0; g < kGroups; ++g) {
    const std::int64_t first = span + g * kGroup + lane * kQuad;
    if (first < extent) x[g] = load_pack(pack.direction + first);
  }
  if (!kWhole)
    for (int g = 0; g < kGroups; ++g) {
      const std::int64_t column = (span + g * kGroup + lane * kQuad) % pack.row_stride;
      for (int i = 0; i < kQuad; ++i)
        if (column + i >= pack.cols) x[g].value[i] = 0;
    }

  // A bit for each of the sixteen words: some element is above the threshold, or a NaN.
  unsigned loud = 0;
  bool zero = false;
  for (int g = 0; g < kGroups; ++g) {
    bool above = false;
    for (int i = 0; i < kQuad; ++i) {
      above |= !(fabsf(x[g].value[i]) <= threshold);
      zero |= x[g].value[i] == 0;
    }
    const unsigned votes = __ballot_sync(kFullWarp, above);
    loud |= ((votes & 0xffffu) != 0 ? 1u : 0u) << (2 * g);
    loud |= ((votes >> 16) != 0 ? 2u : 0u) << (2 * g);
  }
  unsigned bits = gather_bits([&](int g, int i) {
    return __ballot_sync(kFullWarp, (__float_as_uint(x[g].value[i]) >> 31) != 0);
  });

  const std::int64_t word = span / 64 + lane / 2;  // this lane has one half of it
  const int block_words = static_cast<int>(pack.block / 64);
  const int first_of_block = lane / 2 / block_words * block_words;
  bool silent = (loud & (((1u << block_words) - 1) << first_of_block)) == 0;
  if (pack.silent_rows != nullptr && word * 64 < extent)
    silent |= pack.silent_rows[word * 64 / pack.row_stride] != 0;
  if (pack.gate != nullptr) silent |= !is_finite(*pack.gate);

  if (__any_sync(kFullWarp, zero)) {
    unsigned zeros =
        gather_bits([&](int g, int i) { return __ballot_sync(kFullWarp, x[g].value[i] == 0); });
    const int half = lane % 2 * 32;
    if (!kWhole) {
      const std::int64_t real = pack.cols - word * 64 % pack.row_stride;
      zeros &= static_cast<unsigned>(low_bits(std::min<std::int64_t>(64, real)) >> half);
    }
    if (zeros != 0 && !silent) {
      const std::uint64_t coins =
          mix64(pack.coin_stream ^ static_cast<std::uint64_t>(pack.arena_word + word));
      bits = (bits & ~zeros) | (static_cast<unsigned>(coins >> half) & zeros);
    }
  }
  if (word * 64 < extent) {
    reinterpret_cast<unsigned*>(pack.bits)[word * 2 + lane % 2] = silent ? 0u : bits;
    if (silent && lane % 2 == 0 && lane / 2 == first_of_block) {
      const std::int64_t block = word / block_words;
      atomicOr(reinterpret_cast<unsigned*>(pack.abstentions) + block / 32, 1u << (block % 32));
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    sum_squares_for_rms(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                        double* row_sums) {
  const std::int64_t row = global_thread() / kRowLanes;
  const bool real = row < rows;
  const double sum =
      row_square_sum<RowOrder::straight>(x + (real ? row * stride : 0), real ? cols : 0);
  if (real && lane_index() % kRowLanes == 0) row_sums[row] = sum;
}

// One block; piece p of n is the rows [rows p / n, rows (p + 1) / n).
__global__ void __launch_bounds__(kRmsPieces)
    find_threshold(const double* row_sums, std::int64_t rows, std::int64_t cols,
                   double abstain_below, float* threshold) {
  BALLOT_SHARED(double, pieces, kRmsPieces);
  const std::int64_t count = std::min<std::int64_t>(rows, kRmsPieces), p = threadIdx.x;
  double piece = 0;
  if (p < count)
    for (std::int64_t row = rows * p / count; row < rows * (p + 1) / count; ++row)
      piece += row_sums[row];
  pieces[threadIdx.x] = piece;
  __syncthreads();
  if (p != 0) return;
  double sum = 0;
  for (int i = 0; i < kRmsPieces; ++i) sum += pieces[i];
  const double wanted =
      abstain_below * sqrt(sum / (static_cast<double>(rows) * static_cast<double>(cols)));
  // Magnitudes are floats: they are at most `wanted` exactly when they are at most this one.
  float below = static_cast<float>(wanted);
  if (static_cast<double>(below) > wanted) below = __uint_as_float(__float_as_uint(below) - 1);
  *threshold = below;
}

}  // namespace kernels

void PluginVote::find_threshold(const Tensor& direction, double abstain_below, double* row_sums,
                                float* threshold, Stream& stream) {
  const std::int64_t rows = direction.extent[0], cols = direction.extent[1];
  constexpr std::int64_t kRowsOfBlock = kernels::kThreads / kRowLanes;
  launch(kernels::sum_squares_for_rms,
         static_cast<unsigned>((rows + kRowsOfBlock - 1) / kRowsOfBlock), kernels::kThreads, 0,
         stream_of(stream), direction.f32(), direction.stride[0], rows, cols, row_sums);
  launch(kernels::find_threshold, 1, kernels::kRmsPieces, 0, stream_of(stream), row_sums, rows,
         cols, abstain_below, threshold);
}

void PluginVote::pack_signs(const PackSigns& pack, Stream& stream) {
  constexpr std::int64_t kSpanOfBlock = kernels::kSpan * (kernels::kThreads / kWarpSize);
  const std::int64_t extent = pack.rows * pack.row_stride;
  const auto kernel =
      pack.cols == pack.row_stride ? kernels::pack_signs<true> : kernels::pack_signs<false>;
  launch(kernel, static_cast<unsigned>((extent + kSpanOfBlock - 1) / kSpanOfBlock),
         kernels::kThreads, 0, stream_of(stream), pack);
}

}  // namespace ballot
