// Sums of squares along rows, in the order in which the CPU adds them: what optim/square_sum.cpp
// and the RMS of collectives/ballot.cpp have in common. Only for kernel files.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ballot {

inline constexpr int kRowLanes = 16;   // running sums of a row, a thread each: two rows a warp
inline constexpr int kRowUnroll = 16;  // elements that a thread has under way

// How the sixteen sums become one: all of them in order, or the first half plus the second, then
// those eight in order.
enum class RowOrder { straight, folded };

// Of the row that this half of the warp works on; every lane of it gets the sum. `count` may differ
// between the halves; 0 where there is no row.
template <RowOrder kOrder>
__device__ __forceinline__ double row_square_sum(const float* x, std::int64_t count) {
  const int lane = lane_index() % kRowLanes, half = lane_index() - lane;
  const std::int64_t whole = count / kRowLanes * kRowLanes;
  double sum = 0;
  std::int64_t i = lane;
  for (; i + (kRowUnroll - 1) * kRowLanes < whole; i += kRowUnroll * kRowLanes) {
    float element[kRowUnroll];
    for (int k = 0; k < kRowUnroll; ++k) element[k] = x[i + k * kRowLanes];
    for (int k = 0; k < kRowUnroll; ++k)
      sum += static_cast<double>(element[k]) * static_cast<double>(element[k]);
  }
  for (; i < whole; i += kRowLanes) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  constexpr int kSums = kOrder == RowOrder::folded ? kRowLanes / 2 : kRowLanes;
  if (kOrder == RowOrder::folded) sum += __shfl_xor_sync(kFullWarp, sum, kRowLanes / 2);
  double total = 0;
  for (int k = 0; k < kSums; ++k) total += __shfl_sync(kFullWarp, sum, half + k);
  for (i = whole; i < count; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

}  // namespace ballot
