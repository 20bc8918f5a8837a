// Values on the device that a test's plugin has, made from host vectors and read back, through what
// core offers everybody. One test source so serves the SIMT and PTX executors and a real GPU.
//
// Everything here waits: a value has arrived when its constructor returns, and read() first waits
// for the whole of `stream`.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "core/bfloat16.h"
#include "core/copy.h"
#include "core/cuda_backend.h"
#include "core/error.h"
#include "core/tensor.h"

namespace ballot::test {

inline Device cuda_device() {
  static const Device device = find_cuda_device();
  return device;
}

// Elements of any plain type.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count)
      : count_(count), buffer_(count * sizeof(T), cuda_device()) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { write(values); }

  void write(const std::vector<T>& values) {
    require(values.size() == count_, "{} values for {} elements", values.size(), count_);
    Stream stream(cuda_device());
    copy_bytes(buffer_.data(), cuda_device(), values.data(), {}, count_ * sizeof(T), stream);
    stream.synchronize();
  }
  std::vector<T> read(Stream& stream) const {
    stream.synchronize();
    std::vector<T> values(count_);
    copy_bytes(values.data(), {}, buffer_.data(), cuda_device(), count_ * sizeof(T), stream);
    stream.synchronize();
    return values;
  }
  T* data() const { return reinterpret_cast<T*>(buffer_.data()); }
  std::size_t count() const { return count_; }

 private:
  std::size_t count_ = 0;
  Buffer buffer_;
};

// A tensor whose rows (all but the last dimension) may lie further apart than they are long; what
// lies between holds a mark that padding_is_untouched() looks for. Values are given and read back
// densely as floats; bf16 rounds them.
class DeviceTensor {
 public:
  DeviceTensor(DType type, std::initializer_list<std::int64_t> extents,
               const std::vector<float>& values, std::int64_t padding = 0)
      : type_(type), view_(make_tensor(nullptr, type, extents, cuda_device())) {
    require(view_.rank >= 1, "a device tensor without dimensions");
    cols_ = view_.extent[view_.rank - 1];
    row_stride_ = cols_ + padding;
    rows_ = cols_ == 0 ? 0 : view_.count() / cols_;
    std::int64_t stride = row_stride_;
    for (int i = view_.rank - 2; i >= 0; --i) {
      view_.stride[i] = stride;
      stride *= view_.extent[i];
    }
    buffer_ = Buffer(rows_ * row_stride_ * size_bytes(type), cuda_device());
    view_.data = buffer_.data();
    write(values);
  }
  // Zeros.
  DeviceTensor(DType type, std::initializer_list<std::int64_t> extents, std::int64_t padding = 0)
      : DeviceTensor(type, extents,
                     std::vector<float>(std::accumulate(extents.begin(), extents.end(),
                                                        std::int64_t{1}, std::multiplies<>())),
                     padding) {}

  const Tensor& view() const { return view_; }
  operator const Tensor&() const { return view_; }  // NOLINT: used as its view

  void write(const std::vector<float>& values) {
    require(static_cast<std::int64_t>(values.size()) == rows_ * cols_, "{} values for {}",
            values.size(), view_.describe());
    std::vector<float> padded(rows_ * row_stride_, kMark);
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t col = 0; col < cols_; ++col)
        padded[row * row_stride_ + col] = values[row * cols_ + col];
    Stream stream(cuda_device());
    if (type_ == DType::f32) {
      copy_bytes(buffer_.data(), cuda_device(), padded.data(), {}, buffer_.size_bytes(), stream);
    } else {
      std::vector<bfloat16> rounded;
      for (const float value : padded) rounded.push_back(to_bfloat16(value));
      copy_bytes(buffer_.data(), cuda_device(), rounded.data(), {}, buffer_.size_bytes(), stream);
    }
    stream.synchronize();
  }

  std::vector<float> read(Stream& stream) const {
    const std::vector<float> padded = read_padded(stream);
    std::vector<float> values(rows_ * cols_);
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t col = 0; col < cols_; ++col)
        values[row * cols_ + col] = padded[row * row_stride_ + col];
    return values;
  }

  bool padding_is_untouched(Stream& stream) const {
    const std::vector<float> padded = read_padded(stream);
    for (std::int64_t row = 0; row < rows_; ++row)
      for (std::int64_t col = cols_; col < row_stride_; ++col)
        if (padded[row * row_stride_ + col] != kMark) return false;
    return true;
  }

 private:
  static constexpr float kMark = -1.0f / 1024;  // a bf16 too

  std::vector<float> read_padded(Stream& stream) const {
    stream.synchronize();
    const std::size_t count = rows_ * row_stride_;
    std::vector<float> values(count);
    if (type_ == DType::f32) {
      copy_bytes(values.data(), {}, buffer_.data(), cuda_device(), buffer_.size_bytes(), stream);
      stream.synchronize();
    } else {
      std::vector<bfloat16> rounded(count);
      copy_bytes(rounded.data(), {}, buffer_.data(), cuda_device(), buffer_.size_bytes(), stream);
      stream.synchronize();
      for (std::size_t i = 0; i < count; ++i) values[i] = to_float(rounded[i]);
    }
    return values;
  }

  DType type_;
  Tensor view_;
  Buffer buffer_;
  std::int64_t rows_ = 0, cols_ = 0, row_stride_ = 0;
};

}  // namespace ballot::test
