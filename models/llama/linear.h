// A linear layer y = x W^T + b whose rows may belong to several parameters, in the order of y's
// columns. Weights that lie one after the other in the arena are one product.
//
// What is frozen takes part forward and in the gradient of x, and gets no gradient of its own.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "core/matmul.h"     // Accumulate
#include "core/parameter.h"  // Parameter

namespace ballot {

class Linear {
 public:
  struct Part {
    const Parameter* weight;
    const Parameter* bias = nullptr;  // null: none
  };
  // The parameters and the stream must outlive it.
  Linear(std::initializer_list<Part> parts, Stream& stream);

  void forward(const Tensor& x, const Tensor& y) const;
  // dx = dy W.
  void input_gradient(const Tensor& dy, const Tensor& dx) const;
  // dW = dy^T x and db = the sum of dy's rows, or += them.
  void weight_gradient(const Tensor& dy, const Tensor& x, Accumulate accumulate) const;

 private:
  struct Product {
    Tensor weight, gradient;  // gradient: data null where it is frozen
    std::int64_t column;
  };
  struct Bias {
    const Parameter* parameter;
    std::int64_t column;
  };

  Stream* stream_;
  std::vector<Product> products_;
  std::vector<Bias> biases_;
};

}  // namespace ballot
