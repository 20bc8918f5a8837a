// Three products and one pass over the small square a step; the matrix itself is only read and
// written by products.
//
// With B' = a I + b A + c A A the update a X + B X is B' X, so no element-wise pass touches the
// long side. A tall matrix keeps its layout: A = X^T X and X <- X B'. The two scratch matrices take
// turns; the last product writes to x.

#include "optim/newton_schulz.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/matmul.h"
#include "core/parallel.h"
#include "optim/cuda_optim.h"
#include "optim/square_sum.h"

namespace ballot {
namespace {

template <class T>
[[gnu::always_inline]] inline void scale_elements(const float* __restrict x, T* __restrict y,
                                                  std::int64_t count, float scale) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = from_float<T>(scale * x[i]);
}
BALLOT_VECTORIZED void scale_f32(const float* __restrict x, float* __restrict y, std::int64_t count,
                                 float scale) {
  scale_elements(x, y, count, scale);
}
BALLOT_VECTORIZED void scale_bf16(const float* __restrict x, bfloat16* __restrict y,
                                  std::int64_t count, float scale) {
  scale_elements(x, y, count, scale);
}

// A row of b A + c A A, over A A itself in f32; the caller adds a to the diagonal.
BALLOT_VECTORIZED void polynomial_f32(const float* __restrict gram, float* __restrict square,
                                      std::int64_t count, float b, float c) {
  for (std::int64_t i = 0; i < count; ++i) square[i] = b * gram[i] + c * square[i];
}
BALLOT_VECTORIZED void polynomial_bf16(const bfloat16* __restrict gram,
                                       const float* __restrict square, bfloat16* __restrict result,
                                       std::int64_t count, float b, float c) {
  for (std::int64_t i = 0; i < count; ++i)
    result[i] = to_bfloat16(b * to_float(gram[i]) + c * square[i]);
}

void scale_row(const float* x, std::byte* y, DType type, std::int64_t count, float scale) {
  if (type == DType::f32)
    scale_f32(x, reinterpret_cast<float*>(y), count, scale);
  else
    scale_bf16(x, reinterpret_cast<bfloat16*>(y), count, scale);
}

// Row `row` of B' = a I + b A + c A A.
void polynomial_row(const Quintic& q, const float* gram, float* square, std::int64_t side,
                    std::int64_t row) {
  polynomial_f32(gram + row * side, square + row * side, side, q.b, q.c);
  square[row * side + row] += q.a;
}
void polynomial_row(const Quintic& q, const bfloat16* gram, const float* square, bfloat16* result,
                    std::int64_t side, std::int64_t row) {
  const std::int64_t diagonal = row * side + row;
  polynomial_bf16(gram + row * side, square + row * side, result + row * side, side, q.b, q.c);
  // Added before rounding, so that the diagonal is rounded once.
  result[diagonal] = to_bfloat16(q.a + (q.b * to_float(gram[diagonal]) + q.c * square[diagonal]));
}

std::byte* at(const Tensor& matrix, std::int64_t row) {
  return matrix.data + row * matrix.stride[0] * static_cast<std::int64_t>(size_bytes(matrix.type));
}

// y <- factor x, rounded to y's type.
void scale(const Tensor& x, const Tensor& y, float factor, Stream& stream) {
  if (x.device.kind == Device::Kind::cuda) return cuda_optim().scale(x, y, factor, stream);
  const float* source = x.f32();
  parallel_for(x.extent[0], 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      scale_row(source + row * x.stride[0], at(y, row), y.type, x.extent[1], factor);
  });
}

float scale_of(double square_sum, const Normalization& by) {
  return static_cast<float>(1.0 / (by.factor * std::sqrt(square_sum) + by.epsilon));
}

// result <- B' = a I + b A + c A A; with f32 result is A A.
void find_polynomial(const Quintic& quintic, const Tensor& gram, const Tensor& square,
                     const Tensor& result, Stream& stream) {
  if (gram.device.kind == Device::Kind::cuda)
    return cuda_optim().polynomial(quintic, gram, square, result, stream);
  const std::int64_t side = gram.extent[0];
  parallel_for(side, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      if (gram.type == DType::f32)
        polynomial_row(quintic, gram.f32(), square.f32(), side, row);
      else
        polynomial_row(quintic, gram.bf16(), square.f32(), result.bf16(), side, row);
    }
  });
}

}  // namespace

struct NewtonSchulz::State {
  DType type;
  Device device;
  std::int64_t largest_side, largest_count;
  Buffer matrix[2];   // X and the next X
  Buffer gram;        // A
  Buffer square;      // A A, f32 also in bf16
  Buffer polynomial;  // B'
};

NewtonSchulz::NewtonSchulz(std::int64_t largest_smaller_side, std::int64_t largest_count,
                           DType type, Device device)
    : state_(std::make_unique<State>()) {
  require(largest_smaller_side >= 0 && largest_count >= 0,
          "Newton-Schulz for side {} and {} elements", largest_smaller_side, largest_count);
  State& state = *state_;
  state.type = type;
  state.device = device;
  state.largest_side = largest_smaller_side;
  state.largest_count = largest_count;
  const std::size_t count = static_cast<std::size_t>(largest_count);
  const std::size_t area = static_cast<std::size_t>(largest_smaller_side * largest_smaller_side);
  for (Buffer& matrix : state.matrix) matrix = Buffer(count * size_bytes(type), device);
  state.gram = Buffer(area * size_bytes(type), device);
  state.square = Buffer(area * sizeof(float), device);
  // In f32 B' takes the place of A A.
  if (type != DType::f32) state.polynomial = Buffer(area * size_bytes(type), device);
}

NewtonSchulz::~NewtonSchulz() = default;

void NewtonSchulz::orthogonalize(const Tensor& x, int steps, Stream& stream, Coefficients set,
                                 const double* square_sum_there) {
  require(x.rank == 2, "Newton-Schulz of {}", x.describe());
  if (std::min(x.extent[0], x.extent[1]) == 0) return;
  const bool wide = x.extent[0] <= x.extent[1];
  const Tensor first = prepare(x, wide, steps);
  require(square_sum_there == nullptr || x.device.kind == Device::Kind::cuda,
          "Newton-Schulz on the CPU finds its norm itself");
  if (square_sum_there != nullptr) {
    cuda_optim().normalize(x, first, square_sum_there, normalization_of(set), stream);
  } else if (x.device.kind == Device::Kind::cuda) {
    // The norm stays on the device: nothing waits for it.
    const auto rows = static_cast<std::size_t>(x.extent[0]);
    auto* const sum = reinterpret_cast<double*>(stream.scratch((1 + rows) * sizeof(double)));
    cuda_optim().square_sum(x, sum, sum + 1, nullptr, stream);
    cuda_optim().normalize(x, first, sum, normalization_of(set), stream);
  } else {
    scale(x, first, scale_of(square_sum(x, {}, stream), normalization_of(set)), stream);
  }
  iterate(x, wide, steps, set, nullptr, stream);
}

void NewtonSchulz::orthogonalize_part(const Tensor& x, bool wide, int steps, GramSum& parts,
                                      Stream& stream, Coefficients set) {
  const Tensor first = prepare(x, wide, steps);
  scale(x, first, scale_of(parts.sum(square_sum(x, {}, stream)), normalization_of(set)), stream);
  iterate(x, wide, steps, set, &parts, stream);
}

Tensor NewtonSchulz::matrix(int step, std::int64_t rows, std::int64_t cols) const {
  return make_tensor(state_->matrix[step % 2].data(), state_->type, {rows, cols}, state_->device);
}

// Checks the matrix; where its scaled copy goes.
Tensor NewtonSchulz::prepare(const Tensor& x, bool wide, int steps) const {
  require(x.rank == 2 && (x.stride[1] == 1 || x.extent[1] == 1), "Newton-Schulz of {}",
          x.describe());
  require(steps >= 1, "Newton-Schulz with {} steps, expected at least 1", steps);
  const State& state = *state_;
  const std::int64_t rows = x.extent[0], cols = x.extent[1], side = wide ? rows : cols;
  require(x.device == state.device, "Newton-Schulz of a matrix on {}, scratch is on {}",
          to_string(x.device), to_string(state.device));
  require(side <= state.largest_side && rows * cols <= state.largest_count,
          "Newton-Schulz of {}, scratch is for side {} and {} elements", x.describe(),
          state.largest_side, state.largest_count);
  return matrix(0, rows, cols);
}

void NewtonSchulz::iterate(const Tensor& x, bool wide, int steps, Coefficients set, GramSum* parts,
                           Stream& stream) {
  const State& state = *state_;
  const std::int64_t rows = x.extent[0], cols = x.extent[1], side = wide ? rows : cols;
  const DType type = state.type;
  const Tensor gram = make_tensor(state.gram.data(), type, {side, side}, state.device);
  const Tensor square = make_tensor(state.square.data(), DType::f32, {side, side}, state.device);
  const Tensor polynomial =
      type == DType::f32 ? square
                         : make_tensor(state.polynomial.data(), type, {side, side}, state.device);
  for (int step = 0; step < steps; ++step) {
    const Tensor now = matrix(step, rows, cols);
    const Tensor next = step + 1 == steps ? x : matrix(step + 1, rows, cols);
    // Parts are summed in f32 and rounded once, in the square's place that is not needed yet.
    const Tensor& own_gram = parts == nullptr ? gram : square;
    if (wide)
      matmul(now, now.transposed(), own_gram, Accumulate::no, stream);
    else
      matmul(now.transposed(), now, own_gram, Accumulate::no, stream);
    if (parts != nullptr) {
      parts->sum(square, stream);
      scale(square, gram, 1.0f, stream);
    }
    matmul(gram, gram, square, Accumulate::no, stream);
    find_polynomial(quintic_of(set, step), gram, square, polynomial, stream);
    if (wide)
      matmul(polynomial, now, next, Accumulate::no, stream);
    else
      matmul(now, polynomial, next, Accumulate::no, stream);
  }
}

}  // namespace ballot
