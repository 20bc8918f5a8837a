#include "models/gpt2/affine.h"

#include <utility>

#include "models/ops/bias.h"

namespace ballot {
namespace {

Tensor columns_of(Tensor matrix, std::int64_t begin, std::int64_t count) {
  matrix.data += begin * static_cast<std::int64_t>(size_bytes(matrix.type));
  matrix.extent[1] = count;
  return matrix;
}

}  // namespace

Affine::Affine(const Parameter& weight, const Parameter& bias, Stream& stream,
               std::vector<Columns> columns)
    : weight_(&weight), bias_(&bias), stream_(&stream), columns_(std::move(columns)) {
  if (columns_.empty()) columns_.push_back({0, 0, weight.shape.cols});
}

void Affine::forward(const Tensor& x, const Tensor& y) const {
  for (const Columns& c : columns_) {
    const Tensor part = columns_of(y, c.to, c.count);
    matmul(x, columns_of(weight_->compute, c.from, c.count), part, Accumulate::no, *stream_);
    add_bias(part, columns_of(bias_->value, c.from, c.count));
  }
}

void Affine::input_gradient(const Tensor& dy, const Tensor& dx) const {
  for (const Columns& c : columns_)
    matmul(columns_of(dy, c.to, c.count),
           columns_of(weight_->compute, c.from, c.count).transposed(), dx,
           &c == columns_.data() ? Accumulate::no : Accumulate::yes, *stream_);
}

void Affine::weight_gradient(const Tensor& x, const Tensor& dy, const Tensor& dy_exact,
                             Accumulate accumulate) const {
  for (const Columns& c : columns_) {
    if (!weight_->shape.frozen)
      matmul(x.transposed(), columns_of(dy, c.to, c.count),
             columns_of(weight_->gradient, c.from, c.count), accumulate, *stream_);
    if (!bias_->shape.frozen)
      bias_gradient(columns_of(dy_exact, c.to, c.count),
                    columns_of(bias_->gradient, c.from, c.count), accumulate);
  }
}

}  // namespace ballot
