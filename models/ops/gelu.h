// GELU in the tanh form that GPT-2 was trained with, and its gradient (Hendrycks, Gimpel 2016,
// arXiv:1606.08415): gelu(z) = z/2 (1 + tanh(u)) = z sigmoid(2u), u = sqrt(2/pi) (z + 0.044715
// z^3). On the CPU.
//
// f32 or bf16, arithmetic in fp32; both matrices (N, I), contiguous, of one type.
#pragma once

#include "core/tensor.h"  // Tensor

namespace ballot {

void gelu(const Tensor& z, const Tensor& act);

// In place, so that nothing but z is kept from the forward: on entry `act` holds d(act); on return
// it holds act again, and z holds dz.
void gelu_backward(const Tensor& z, const Tensor& act);

}  // namespace ballot
