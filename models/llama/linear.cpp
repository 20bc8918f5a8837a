#include "models/llama/linear.h"

#include "models/ops/bias.h"

namespace ballot {
namespace {

Tensor columns(Tensor matrix, std::int64_t begin, std::int64_t count) {
  matrix.data += begin * static_cast<std::int64_t>(size_bytes(matrix.type));
  matrix.extent[1] = count;
  return matrix;
}

}  // namespace

Linear::Linear(std::initializer_list<Part> parts, Stream& stream) : stream_(&stream) {
  std::int64_t column = 0, end = -1;
  for (const Part& part : parts) {
    const Parameter& p = *part.weight;
    if (p.offset == end && p.row_stride == products_.back().weight.stride[0] &&
        (p.gradient.data == nullptr) == (products_.back().gradient.data == nullptr)) {
      products_.back().weight.extent[0] += p.shape.rows;
      products_.back().gradient.extent[0] += p.shape.rows;
    } else {
      products_.push_back({p.compute, p.gradient, column});
    }
    if (part.bias != nullptr) biases_.push_back({part.bias, column});
    column += p.shape.rows;
    end = p.offset + p.extent();
  }
}

void Linear::forward(const Tensor& x, const Tensor& y) const {
  for (const Product& product : products_)
    matmul(x, product.weight.transposed(), columns(y, product.column, product.weight.extent[0]),
           Accumulate::no, *stream_);
  for (const Bias& bias : biases_)
    add_bias(columns(y, bias.column, bias.parameter->shape.cols), bias.parameter->value);
}

void Linear::input_gradient(const Tensor& dy, const Tensor& dx) const {
  for (const Product& product : products_)
    matmul(columns(dy, product.column, product.weight.extent[0]), product.weight, dx,
           &product == products_.data() ? Accumulate::no : Accumulate::yes, *stream_);
}

void Linear::weight_gradient(const Tensor& dy, const Tensor& x, Accumulate accumulate) const {
  for (const Product& product : products_)
    if (product.gradient.data != nullptr)
      matmul(columns(dy, product.column, product.weight.extent[0]).transposed(), x,
             product.gradient, accumulate, *stream_);
  for (const Bias& bias : biases_)
    if (bias.parameter->gradient.data != nullptr)
      bias_gradient(columns(dy, bias.column, bias.parameter->shape.cols), bias.parameter->gradient,
                    accumulate);
}

}  // namespace ballot
