#include "core/tensor.h"

#include <fmt/ranges.h>

#include <span>
#include <utility>

#include "core/error.h"

namespace ballot {

const char* to_string(DType type) {
  return type == DType::f32 ? "f32" : "bf16";
}

std::int64_t Tensor::count() const {
  std::int64_t product = 1;
  for (int i = 0; i < rank; ++i) product *= extent[i];
  return product;
}

bool Tensor::is_contiguous() const {
  std::int64_t expected = 1;
  for (int i = rank - 1; i >= 0; --i) {
    if (extent[i] != 1 && stride[i] != expected) return false;
    expected *= extent[i];
  }
  return true;
}

Tensor Tensor::transposed() const {
  require(rank == 2, "transposed: {} has {} dimensions, expected 2", describe(), rank);
  Tensor result = *this;
  std::swap(result.extent[0], result.extent[1]);
  std::swap(result.stride[0], result.stride[1]);
  return result;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  require(rank >= 1 && 0 <= begin && begin <= end && end <= extent[0], "rows {}..{} of {}", begin,
          end, describe());
  Tensor result = *this;
  result.data += begin * stride[0] * static_cast<std::int64_t>(size_bytes(type));
  result.extent[0] = end - begin;
  return result;
}

Tensor Tensor::reshaped(std::initializer_list<std::int64_t> extents) const {
  require(is_contiguous(), "reshape of {}, which is not contiguous", describe());
  Tensor result = make_tensor(data, type, extents, device);
  require(result.count() == count(), "reshape of {} to {}", describe(), result.describe());
  return result;
}

std::string Tensor::describe() const {
  return fmt::format("{} ({})", to_string(type), fmt::join(std::span(extent.data(), rank), ", "));
}

float* Tensor::f32() const {
  require(type == DType::f32, "{} read as f32", describe());
  return reinterpret_cast<float*>(data);
}

bfloat16* Tensor::bf16() const {
  require(type == DType::bf16, "{} read as bf16", describe());
  return reinterpret_cast<bfloat16*>(data);
}

Tensor make_tensor(void* data, DType type, std::initializer_list<std::int64_t> extents,
                   Device device) {
  require(extents.size() <= 4, "a tensor of {} dimensions, at most 4", extents.size());
  Tensor tensor;
  tensor.data = static_cast<std::byte*>(data);
  tensor.type = type;
  tensor.device = device;
  tensor.rank = static_cast<int>(extents.size());
  int i = 0;
  for (const std::int64_t extent : extents) tensor.extent[i++] = extent;
  std::int64_t stride = 1;
  for (i = tensor.rank - 1; i >= 0; --i) {
    tensor.stride[i] = stride;
    stride *= tensor.extent[i];
  }
  return tensor;
}

Tensor make_matrix(void* data, DType type, std::int64_t rows, std::int64_t cols,
                   std::int64_t row_stride, Device device) {
  Tensor tensor = make_tensor(data, type, {rows, cols}, device);
  tensor.stride[0] = row_stride;
  return tensor;
}

OwnedTensor::OwnedTensor(DType type, std::initializer_list<std::int64_t> extents, Device device)
    : view_(make_tensor(nullptr, type, extents, device)) {
  buffer_ = Buffer(view_.count() * size_bytes(type), device);
  view_.data = buffer_.data();
}

}  // namespace ballot
