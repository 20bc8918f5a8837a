// An affine map y = x W + b as GPT-2's checkpoints store it: W (in, out), b (out).
//
// Columns of y need not lie in W's order: attention reads [v | k | q] where c_attn makes [q | k |
// v]. What is frozen takes part forward and in the gradient of x, and gets no gradient of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "core/matmul.h"     // Accumulate
#include "core/parameter.h"  // Parameter

namespace ballot {

class Affine {
 public:
  // Columns `from` on of W and b make the columns `to` on of y.
  struct Columns {
    std::int64_t from, to, count;
  };
  // The parameters and the stream must outlive it. Without `columns` y's are W's.
  Affine(const Parameter& weight, const Parameter& bias, Stream& stream,
         std::vector<Columns> columns = {});

  const Parameter& weight() const { return *weight_; }
  const Parameter& bias() const { return *bias_; }

  void forward(const Tensor& x, const Tensor& y) const;
  // dx = dy W^T.
  void input_gradient(const Tensor& dy, const Tensor& dx) const;
  // dW = x^T dy and db = the sum of dy's rows, or += them. `dy_exact` is dy before it was rounded
  // for products; the same where it was not.
  void weight_gradient(const Tensor& x, const Tensor& dy, const Tensor& dy_exact,
                       Accumulate accumulate) const;

 private:
  const Parameter* weight_;
  const Parameter* bias_;
  Stream* stream_;
  std::vector<Columns> columns_;
};

}  // namespace ballot
