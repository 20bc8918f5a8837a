// RMSNorm row by row and its gradient: y = gain * x * r, r = 1 / sqrt(mean(x^2) + epsilon) (Zhang,
// Sennrich 2019, arXiv:1910.07467), with the residual additions on either side of it folded into
// the same pass.
//
// x (N, C), dx and the gain are f32; y is f32 or bf16. All contiguous. Nothing of size (N, C) needs
// to be kept for the backward but x: y is written again by the backward pass, which reads x anyway.
// inverse_rms and partials lie where the tensors do.
#pragma once

#include "core/matmul.h"  // Accumulate
#include "core/tensor.h"  // Stream, Tensor

namespace ballot {

// x += addend (unless its data is null), then y and r (N).
void rms_norm(const Tensor& x, const Tensor& addend, const Tensor& gain, float epsilon,
              const Tensor& y, float* inverse_rms, Stream& stream);

struct RmsNormGradient {
  Tensor dx;  // (N, C) f32: with `accumulate`, what flows through the residual is added to
  Accumulate accumulate = Accumulate::no;
  Tensor dx_rounded;  // (N, C) bf16 copy of dx for products; data null = none
  Tensor y;           // (N, C) the forward's y again; data null = not wanted
  Tensor dgain;       // (1, C) f32
  Accumulate accumulate_gain = Accumulate::no;
};

// dx = r * (gain*dy - x * r^2 * mean(gain*dy*x)), dgain = sum over rows of dy*x*r. `partials` holds
// rms_norm_partials(N, C) floats: the rows' sums are formed in pieces of fixed size and added in
// order.
void rms_norm_backward(const Tensor& x, const float* inverse_rms, const Tensor& gain,
                       const Tensor& dy, const RmsNormGradient& gradient, float* partials,
                       Stream& stream);
std::int64_t rms_norm_partials(std::int64_t rows, std::int64_t cols, Device device);

}  // namespace ballot
