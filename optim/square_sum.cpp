// Sixteen running sums along a row, rows in order within a piece, pieces in order.

#include "optim/square_sum.h"

#include <array>
#include <cstring>

#include "core/copy.h"
#include "core/error.h"
#include "core/parallel.h"
#include "optim/cuda_optim.h"

namespace ballot {
namespace {

constexpr std::int64_t kPieces = 256;
constexpr std::int64_t kPrefetch = 512;  // elements ahead: past the page that the hardware stays in

typedef float Float8 __attribute__((vector_size(32)));
typedef double Double8 __attribute__((vector_size(64)));

BALLOT_VECTORIZED double row_square_sum(const float* __restrict x, std::int64_t count) {
  Double8 even{}, odd{};
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    Float8 a, b;
    std::memcpy(&a, x + i, sizeof a);
    std::memcpy(&b, x + i + 8, sizeof b);
    __builtin_prefetch(x + i + kPrefetch);
    const Double8 wide_a = __builtin_convertvector(a, Double8);
    const Double8 wide_b = __builtin_convertvector(b, Double8);
    even += wide_a * wide_a;
    odd += wide_b * wide_b;
  }
  const Double8 lanes = even + odd;
  double sum = 0;
  for (int lane = 0; lane < 8; ++lane) sum += lanes[lane];
  for (; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

// Scratch of the device: the sum, the sums of rows, the flags of rows.
double square_sum_on_gpu(const Tensor& x, std::span<std::uint8_t> zero_rows, Stream& stream) {
  const auto rows = static_cast<std::size_t>(x.extent[0]);
  const std::size_t sums_bytes = (1 + rows) * sizeof(double);
  auto* sums = reinterpret_cast<double*>(stream.scratch(sums_bytes + zero_rows.size()));
  auto* flags = reinterpret_cast<std::uint8_t*>(sums) + sums_bytes;
  std::byte* host = stream.pinned_scratch(sizeof(double) + zero_rows.size());
  cuda_optim().square_sum(x, sums, sums + 1, zero_rows.empty() ? nullptr : flags, stream);
  copy_bytes(host, Device{}, sums, x.device, sizeof(double), stream);
  copy_bytes(host + sizeof(double), Device{}, flags, x.device, zero_rows.size(), stream);
  stream.synchronize();
  if (!zero_rows.empty()) std::memcpy(zero_rows.data(), host + sizeof(double), zero_rows.size());
  double sum;
  std::memcpy(&sum, host, sizeof sum);
  return sum;
}

}  // namespace

// Scratch of the device: the sums of rows.
void start_square_sum(const Tensor& x, double* sum, std::uint8_t* zero_rows, Stream& stream) {
  require(x.rank == 2 && (x.stride[1] == 1 || x.extent[1] == 1) && x.extent[0] > 0 &&
              x.device.kind == Device::Kind::cuda,
          "square sum, on {}, of {}", to_string(x.device), x.describe());
  auto* const row_sums = reinterpret_cast<double*>(
      stream.scratch(static_cast<std::size_t>(x.extent[0]) * sizeof(double)));
  cuda_optim().square_sum(x, sum, row_sums, zero_rows, stream);
}

double square_sum(const Tensor& x, std::span<std::uint8_t> zero_rows, Stream& stream) {
  require(x.rank == 2 && (x.stride[1] == 1 || x.extent[1] == 1), "square sum of {}", x.describe());
  const std::int64_t rows = x.extent[0], cols = x.extent[1], stride = x.stride[0];
  require(zero_rows.empty() || static_cast<std::int64_t>(zero_rows.size()) == rows,
          "{} row flags for {}", zero_rows.size(), x.describe());
  const float* data = x.f32();
  if (rows == 0) return 0;
  if (x.device.kind == Device::Kind::cuda) return square_sum_on_gpu(x, zero_rows, stream);
  // The cut into pieces is a function of the shape alone.
  const std::int64_t piece_rows = (rows + kPieces - 1) / kPieces;
  const std::int64_t pieces = (rows + piece_rows - 1) / piece_rows;
  std::array<double, kPieces> sums{};
  parallel_for(pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t last = std::min(rows, (piece + 1) * piece_rows);
      for (std::int64_t row = piece * piece_rows; row < last; ++row) {
        const double sum = row_square_sum(data + row * stride, cols);
        if (!zero_rows.empty()) zero_rows[row] = sum == 0 ? 1 : 0;
        sums[piece] += sum;
      }
    }
  });
  double total = 0;
  for (std::int64_t piece = 0; piece < pieces; ++piece) total += sums[piece];
  return total;
}

}  // namespace ballot
