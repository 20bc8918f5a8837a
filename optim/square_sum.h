// The sum of squares of a matrix, in double, added in an order that does not depend on the team.
//
// Squares of floats are exact in double, cannot overflow, and only zero has square zero: so the sum
// is finite exactly when every element is, and a row's sum is 0 exactly when the row is all zero.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"  // Tensor

namespace ballot {

// x (rows, cols) f32, any row stride, columns contiguous. `zero_rows`, if not empty, gets 1 for
// each all-zero row. Waits for the stream.
double square_sum(const Tensor& x, std::span<std::uint8_t> zero_rows, Stream& stream);
// The same on a GPU without a wait: *sum and `zero_rows` (null, or a byte for each row) are the
// device's.
void start_square_sum(const Tensor& x, double* sum, std::uint8_t* zero_rows, Stream& stream);

}  // namespace ballot
