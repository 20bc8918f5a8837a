// Newton-Schulz iteration towards the orthogonal factor of a matrix (Muon's quintic, Jordan 2024).
//
//   X = G / (||G||_F + 1e-7); transposed if rows > cols
//   repeat: A = X X^T;  B = b A + c A A;  X = a X + B X
//
// with (a, b, c) of newton_schulz_coefficients.h.
//
// Products in f32 or bf16 (then X, A, B are bf16). Scratch is made once for the largest matrix. One
// thread at a time (it uses the calling thread's team).
//
// A matrix too large for one worker is cut across its longer side: X = [X_1 X_2 ..], A = sum of
// X_i X_i^T, and each part's update needs only itself and A. What the parts must agree on, the
// square sum once and A in each iteration, goes through a GramSum.
#pragma once

#include <cstdint>
#include <memory>

#include "core/tensor.h"
#include "optim/newton_schulz_coefficients.h"

namespace ballot {

// Sums over those who hold the other parts of a matrix; the same bits for all of them. Every part
// makes the same calls in the same order.
class GramSum {
 public:
  virtual ~GramSum() = default;
  virtual double sum(double mine) = 0;
  // f32 (side, side), contiguous, in place; on the stream's device.
  virtual void sum(const Tensor& gram, Stream& stream) = 0;
};

class NewtonSchulz {
 public:
  // For matrices on `device`.
  NewtonSchulz(std::int64_t largest_smaller_side, std::int64_t largest_count, DType type,
               Device device = {});
  ~NewtonSchulz();
  // x (rows, cols) f32 with any row stride, in place. A zero matrix stays zero. `square_sum`, of a
  // GPU: where what optim/square_sum.h says of x is, or null.
  void orthogonalize(const Tensor& x, int steps, Stream& stream,
                     Coefficients set = Coefficients::keller, const double* square_sum = nullptr);
  // x is one part of a matrix: all of its rows and some columns (`wide`), or all of its columns and
  // some rows; A has the side that is whole. Equal on all parts but for x itself; to rounding what
  // orthogonalize() of the whole matrix gives.
  void orthogonalize_part(const Tensor& x, bool wide, int steps, GramSum& parts, Stream& stream,
                          Coefficients set = Coefficients::keller);

 private:
  struct State;
  Tensor matrix(int step, std::int64_t rows, std::int64_t cols) const;
  Tensor prepare(const Tensor& x, bool wide, int steps) const;
  void iterate(const Tensor& x, bool wide, int steps, Coefficients set, GramSum* parts,
               Stream& stream);
  std::unique_ptr<State> state_;
};

}  // namespace ballot
