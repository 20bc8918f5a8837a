// LayerNorm row by row and its gradient: y = gain * (x - mean) * r + bias, r = 1 / sqrt(variance +
// epsilon), the variance over C without Bessel's correction (Ba et al. 2016, arXiv:1607.06450),
// with the residual additions on either side of it folded into the same pass. On the CPU.
//
// x (N, C), dx, gain and bias are f32; y is f32 or bf16. All contiguous. Nothing of size (N, C)
// needs to be kept for the backward but x: y is written again by the backward pass. `moments` holds
// [mean | r] of each row, 2 N floats.
#pragma once

#include "core/matmul.h"  // Accumulate
#include "core/tensor.h"  // Tensor

namespace ballot {

// x += addend (unless its data is null), then y and the moments.
void layer_norm(const Tensor& x, const Tensor& addend, const Tensor& gain, const Tensor& bias,
                float epsilon, const Tensor& y, float* moments);

struct LayerNormGradient {
  Tensor dx;  // (N, C) f32: with `accumulate`, what flows through the residual is added to
  Accumulate accumulate = Accumulate::no;
  Tensor dx_rounded;  // (N, C) bf16 copy of dx for products; data null = none
  Tensor y;           // (N, C) the forward's y again; data null = not wanted
  Tensor dgain;       // (1, C) f32; data null = not wanted
  Tensor dbias;       // (1, C) f32; data null = not wanted
  Accumulate accumulate_affine = Accumulate::no;
};

// With n = (x - mean) * r: dx = r * (gain*dy - mean(gain*dy) - n * mean(gain*dy*n)), dgain = sum
// over rows of dy*n, dbias of dy. `partials` holds layer_norm_partials(N, C) floats: the rows' sums
// are formed in pieces of fixed size and added in order, so the bits do not depend on the team's
// size.
void layer_norm_backward(const Tensor& x, const float* moments, const Tensor& gain,
                         const Tensor& bias, const Tensor& dy, const LayerNormGradient& gradient,
                         float* partials);
std::int64_t layer_norm_partials(std::int64_t rows, std::int64_t cols);

}  // namespace ballot
