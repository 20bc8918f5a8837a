// SwiGLU: act = silu(gate) * up, silu(z) = z / (1 + exp(-z)) (Shazeer 2020, arXiv:2002.05202), and
// its gradient.
//
// up and gate lie side by side in one matrix (N, 2I): [up | gate]. f32 or bf16, arithmetic in fp32.
#pragma once

#include "core/tensor.h"  // Stream, Tensor

namespace ballot {

// up_gate (N, 2I) -> act (N, I).
void swiglu(const Tensor& up_gate, const Tensor& act, Stream& stream);

// In place, so that nothing but up_gate is kept from the forward: on entry `act` holds d(act); on
// return it holds act again, and up_gate holds [d(up) | d(gate)].
void swiglu_backward(const Tensor& up_gate, const Tensor& act, Stream& stream);

}  // namespace ballot
