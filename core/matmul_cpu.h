// The CPU's side of core/matmul.h, for operands that matmul() has checked: shapes fit, nothing is
// empty, all lie on the CPU.
#pragma once

#include "core/matmul.h"  // Accumulate, Tensor

namespace ballot {

void matmul_cpu(const Tensor& a, const Tensor& b, const Tensor& c, Accumulate accumulate);

}  // namespace ballot
