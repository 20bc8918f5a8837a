// Memory that is taken for the largest batch seen, then reused.
#pragma once

#include <cstdint>

#include "core/buffer.h"  // Buffer
#include "core/tensor.h"  // Tensor

namespace ballot {

// At least so many bytes; what was in it is lost if it grows.
inline void grow(Buffer& buffer, std::int64_t bytes, Device device = {}) {
  if (static_cast<std::int64_t>(buffer.size_bytes()) >= bytes) return;
  buffer = Buffer();  // give back first: both at once may not fit
  buffer = Buffer(static_cast<std::size_t>(bytes), device);
}

// Rows of a fixed width; views its first ones.
class GrowingMatrix {
 public:
  GrowingMatrix() = default;
  GrowingMatrix(DType type, std::int64_t cols) : type_(type), cols_(cols) {}
  std::int64_t size_bytes(std::int64_t rows) const {
    return rows * cols_ * static_cast<std::int64_t>(ballot::size_bytes(type_));
  }
  void reserve(std::int64_t rows, Device device = {}) { grow(buffer_, size_bytes(rows), device); }
  Tensor rows(std::int64_t count) const {
    return make_tensor(buffer_.data(), type_, {count, cols_}, buffer_.device());
  }
  std::int64_t cols() const { return cols_; }
  Buffer& buffer() { return buffer_; }

 private:
  DType type_ = DType::f32;
  std::int64_t cols_ = 0;
  Buffer buffer_;
};

}  // namespace ballot
