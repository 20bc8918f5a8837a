// The one seam for matrix products: oneDNN on the CPU, cuBLAS on the GPU.
//
// Any strides: a transposed view is a transposed operand, nothing is repacked; on the GPU a matrix
// has its rows or its columns contiguous. Inputs f32 x f32 or bf16 x bf16, output f32 or bf16 (bf16
// in, fp32 accumulated). Runs where the tensors lie, which must be where the stream is. Safe from
// any thread, also inside parallel_for (then on that one thread). The bits of a product depend on
// the processor's instruction set and, in bf16, on the number of threads; the same shapes on the
// same team give the same bits.
#pragma once

#include "core/device.h"  // Stream
#include "core/tensor.h"  // Tensor

namespace ballot {

enum class Accumulate { no, yes };

// c = a b, or c += a b. a (M, K), b (K, N), c (M, N) with c's columns contiguous.
void matmul(const Tensor& a, const Tensor& b, const Tensor& c, Accumulate accumulate,
            Stream& stream);

}  // namespace ballot
