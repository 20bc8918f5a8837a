// A host matrix copied to the device with all its bytes, padding too, and its bytes back.
#pragma once

#include <cstddef>
#include <vector>

#include "tests/cuda/device_tensor.h"

namespace ballot::test {

inline std::size_t extent_bytes(const Tensor& matrix) {
  return static_cast<std::size_t>((matrix.extent[0] - 1) * matrix.stride[0] + matrix.extent[1]) *
         size_bytes(matrix.type);
}
inline std::vector<std::byte> bytes_of(const Tensor& host) {
  return {host.data, host.data + extent_bytes(host)};
}

class Mirror {
 public:
  // Rows are whole there, the last one too.
  explicit Mirror(const Tensor& host)
      : buffer_(static_cast<std::size_t>(host.extent[0] * host.stride[0]) * size_bytes(host.type),
                cuda_device()),
        view_(host) {
    view_.data = buffer_.data();
    view_.device = cuda_device();
    take(host);
  }
  const Tensor& view() const { return view_; }
  operator const Tensor&() const { return view_; }  // NOLINT: used as its view

  void take(const Tensor& host) const {
    Stream stream(cuda_device());
    copy_bytes(view_.data, cuda_device(), host.data, {}, extent_bytes(host), stream);
    stream.synchronize();
  }
  std::vector<std::byte> bytes(Stream& stream) const {
    std::vector<std::byte> bytes(extent_bytes(view_));
    copy_bytes(bytes.data(), {}, view_.data, cuda_device(), bytes.size(), stream);
    stream.synchronize();
    return bytes;
  }

 private:
  Buffer buffer_;
  Tensor view_;
};

}  // namespace ballot::test
