// Newton-Schulz iteration towards the orthogonal factor of a matrix (Muon's quintic, Jordan 2024).
//
//   X = G / (||G||_F + 1e-7); transposed if rows > cols
//   repeat: A = X X^T;  B = b A + c A A;  X = a X + B X        (a, b, c) = (3.4445,
//   -4.7750, 2.0315)
//
// Products in f32 or bf16 (then X, A, B are bf16). Scratch is made once for the largest matrix. One
// thread at a time (it uses the calling thread's team).
#pragma once

#include <cstdint>
#include <memory>

#include "core/tensor.h"

namespace ballot {

class NewtonSchulz {
 public:
  NewtonSchulz(std::int64_t largest_smaller_side, std::int64_t largest_count, DType type);
  ~NewtonSchulz();
  // x (rows, cols) f32 with any row stride, in place. A zero matrix stays zero.
  void orthogonalize(const Tensor& x, int steps, Stream& stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ballot
