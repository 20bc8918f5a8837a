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
#include "optim/square_sum.h"

namespace ballot {
namespace {

constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;
constexpr double kEpsilon = 1e-7;

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
                                      std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) square[i] = kB * gram[i] + kC * square[i];
}
BALLOT_VECTORIZED void polynomial_bf16(const bfloat16* __restrict gram,
                                       const float* __restrict square, bfloat16* __restrict result,
                                       std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    result[i] = to_bfloat16(kB * to_float(gram[i]) + kC * square[i]);
}

void scale_row(const float* x, std::byte* y, DType type, std::int64_t count, float scale) {
  if (type == DType::f32)
    scale_f32(x, reinterpret_cast<float*>(y), count, scale);
  else
    scale_bf16(x, reinterpret_cast<bfloat16*>(y), count, scale);
}

// Row `row` of B' = a I + b A + c A A.
void polynomial_row(const float* gram, float* square, std::int64_t side, std::int64_t row) {
  polynomial_f32(gram + row * side, square + row * side, side);
  square[row * side + row] += kA;
}
void polynomial_row(const bfloat16* gram, const float* square, bfloat16* result, std::int64_t side,
                    std::int64_t row) {
  const std::int64_t diagonal = row * side + row;
  polynomial_bf16(gram + row * side, square + row * side, result + row * side, side);
  // Added before rounding, so that the diagonal is rounded once.
  result[diagonal] = to_bfloat16(kA + (kB * to_float(gram[diagonal]) + kC * square[diagonal]));
}

}  // namespace

struct NewtonSchulz::State {
  DType type;
  std::int64_t largest_side, largest_count;
  Buffer matrix[2];   // X and the next X
  Buffer gram;        // A
  Buffer square;      // A A, f32 also in bf16
  Buffer polynomial;  // B'
};

NewtonSchulz::NewtonSchulz(std::int64_t largest_smaller_side, std::int64_t largest_count,
                           DType type)
    : state_(std::make_unique<State>()) {
  require(largest_smaller_side >= 0 && largest_count >= 0,
          "Newton-Schulz for side {} and {} elements", largest_smaller_side, largest_count);
  State& state = *state_;
  state.type = type;
  state.largest_side = largest_smaller_side;
  state.largest_count = largest_count;
  const std::size_t count = static_cast<std::size_t>(largest_count);
  const std::size_t area = static_cast<std::size_t>(largest_smaller_side * largest_smaller_side);
  for (Buffer& matrix : state.matrix) matrix = Buffer(count * size_bytes(type));
  state.gram = Buffer(area * size_bytes(type));
  state.square = Buffer(area * sizeof(float));
  // In f32 B' takes the place of A A.
  if (type != DType::f32) state.polynomial = Buffer(area * size_bytes(type));
}

NewtonSchulz::~NewtonSchulz() = default;

void NewtonSchulz::orthogonalize(const Tensor& x, int steps, Stream& stream) {
  require(x.rank == 2, "Newton-Schulz of {}", x.describe());
  if (std::min(x.extent[0], x.extent[1]) == 0) return;
  iterate(x, x.extent[0] <= x.extent[1], steps, square_sum(x), nullptr, stream);
}

void NewtonSchulz::orthogonalize_part(const Tensor& x, bool wide, int steps, GramSum& parts,
                                      Stream& stream) {
  iterate(x, wide, steps, parts.sum(square_sum(x)), &parts, stream);
}

void NewtonSchulz::iterate(const Tensor& x, bool wide, int steps, double square_sum, GramSum* parts,
                           Stream& stream) {
  require(x.rank == 2 && (x.stride[1] == 1 || x.extent[1] == 1), "Newton-Schulz of {}",
          x.describe());
  require(steps >= 1, "Newton-Schulz with {} steps, expected at least 1", steps);
  State& state = *state_;
  const std::int64_t rows = x.extent[0], cols = x.extent[1], side = wide ? rows : cols;
  require(side <= state.largest_side && rows * cols <= state.largest_count,
          "Newton-Schulz of {}, scratch is for side {} and {} elements", x.describe(),
          state.largest_side, state.largest_count);

  const DType type = state.type;
  const float scale = static_cast<float>(1.0 / (std::sqrt(square_sum) + kEpsilon));
  const float* source = x.f32();
  std::byte* first = state.matrix[0].data();
  const std::int64_t row_bytes = cols * static_cast<std::int64_t>(size_bytes(type));
  parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      scale_row(source + row * x.stride[0], first + row * row_bytes, type, cols, scale);
  });

  const Tensor gram = make_tensor(state.gram.data(), type, {side, side});
  const Tensor square = make_tensor(state.square.data(), DType::f32, {side, side});
  const Tensor polynomial =
      type == DType::f32 ? square : make_tensor(state.polynomial.data(), type, {side, side});
  for (int step = 0; step < steps; ++step) {
    const Tensor now = make_tensor(state.matrix[step % 2].data(), type, {rows, cols});
    const Tensor next = step + 1 == steps
                            ? x
                            : make_tensor(state.matrix[(step + 1) % 2].data(), type, {rows, cols});
    // Parts are summed in f32 and rounded once, in the square's place that is not needed yet.
    const Tensor& own_gram = parts == nullptr ? gram : square;
    if (wide)
      matmul(now, now.transposed(), own_gram, Accumulate::no, stream);
    else
      matmul(now.transposed(), now, own_gram, Accumulate::no, stream);
    if (parts != nullptr) {
      parts->sum(square);
      parallel_for(side, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row)
          scale_row(square.f32() + row * side,
                    gram.data + row * side * static_cast<std::int64_t>(size_bytes(type)), type,
                    side, 1.0f);
      });
    }
    matmul(gram, gram, square, Accumulate::no, stream);
    parallel_for(side, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        if (type == DType::f32)
          polynomial_row(gram.f32(), square.f32(), side, row);
        else
          polynomial_row(gram.bf16(), square.f32(), polynomial.bf16(), side, row);
      }
    });
    if (wide)
      matmul(polynomial, now, next, Accumulate::no, stream);
    else
      matmul(now, polynomial, next, Accumulate::no, stream);
  }
}

}  // namespace ballot
