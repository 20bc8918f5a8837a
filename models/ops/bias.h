// A bias added to a product's output, and its gradient.
//
// y (N, M) f32 or bf16 with contiguous columns, rows any stride apart; the bias (1, M) is f32. On
// the CPU.
#pragma once

#include "core/matmul.h"  // Accumulate
#include "core/tensor.h"  // Tensor

namespace ballot {

// y[n] += bias.
void add_bias(const Tensor& y, const Tensor& bias);

// dbias = sum of the rows of dy, or += it. Rows are added in order, in double, whatever the team's
// size.
void bias_gradient(const Tensor& dy, const Tensor& dbias, Accumulate accumulate);

}  // namespace ballot
