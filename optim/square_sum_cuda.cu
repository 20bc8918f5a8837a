// The square sum of a matrix, added in the order of square_sum.cpp, so that the double has its
// bits.
//
// Sixteen threads keep a row's sixteen running sums, 64 bytes side by side; a second kernel of one
// block adds rows within pieces and pieces. 4 bytes move per element: at 3.35 TB/s a billion
// elements take 1.2 ms. Few long rows cannot fill the device: a vector takes as long as its
// sixteen threads need, and the order of square_sum.cpp allows no more of them.
#include "core/cuda/kernel.h"
// kernel.h first: see its last rule.
#include <algorithm>

#include "collectives/row_squares_cuda.h"
#include "core/cuda/cuda_stream.h"
#include "optim/optim_cuda.h"

namespace ballot {
namespace kernels {

constexpr int kThreads = 256;
constexpr int kRowsOfBlock = kThreads / kRowLanes;
constexpr int kPieces = 256;  // square_sum.cpp's

__global__ void __launch_bounds__(kThreads)
    sum_squares_of_rows(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                        double* row_sums, std::uint8_t* zero_rows) {
  const std::int64_t row = global_thread() / kRowLanes;
  const bool real = row < rows;
  const double sum =
      row_square_sum<RowOrder::folded>(x + (real ? row * stride : 0), real ? cols : 0);
  if (real && lane_index() % kRowLanes == 0) {
    row_sums[row] = sum;
    if (zero_rows != nullptr) zero_rows[row] = sum == 0 ? 1 : 0;
  }
}

// One block; piece p is the rows from p * piece_rows.
__global__ void __launch_bounds__(kPieces)
    sum_rows(const double* row_sums, std::int64_t rows, std::int64_t piece_rows, double* sum) {
  BALLOT_SHARED(double, pieces, kPieces);
  const std::int64_t begin = std::min<std::int64_t>(rows, threadIdx.x * piece_rows);
  const std::int64_t end = std::min(rows, begin + piece_rows);
  double piece = 0;
#pragma unroll 8
  for (std::int64_t row = begin; row < end; ++row) piece += row_sums[row];
  pieces[threadIdx.x] = piece;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  // Pieces past the last are +0, which changes no bit of a sum of squares.
#pragma unroll 16
  for (int p = 0; p < kPieces; ++p) total += pieces[p];
  *sum = total;
}

}  // namespace kernels

void PluginOptim::square_sum(const Tensor& x, double* sum, double* row_sums,
                             std::uint8_t* zero_rows, Stream& stream) {
  const std::int64_t rows = x.extent[0];
  const auto blocks =
      static_cast<unsigned>((rows + kernels::kRowsOfBlock - 1) / kernels::kRowsOfBlock);
  launch(kernels::sum_squares_of_rows, blocks, kernels::kThreads, 0, stream_of(stream), x.f32(),
         x.stride[0], rows, x.extent[1], row_sums, zero_rows);
  sum_rows(row_sums, rows, sum, stream);
}

void PluginOptim::sum_rows(const double* row_sums, std::int64_t rows, double* sum, Stream& stream) {
  launch(kernels::sum_rows, 1, kernels::kPieces, 0, stream_of(stream), row_sums, rows,
         (rows + kernels::kPieces - 1) / kernels::kPieces, sum);
}

}  // namespace ballot
