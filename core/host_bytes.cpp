#include "core/host_bytes.h"

#include "core/copy.h"

namespace ballot {
namespace {

std::size_t extent_bytes(const Tensor& tensor) {
  if (tensor.count() == 0) return 0;
  std::int64_t last = 0;
  for (int i = 0; i < tensor.rank; ++i)
    last += (tensor.extent[static_cast<std::size_t>(i)] - 1) *
            tensor.stride[static_cast<std::size_t>(i)];
  return static_cast<std::size_t>(last + 1) * size_bytes(tensor.type);
}

}  // namespace

HostBytes::HostBytes(const Tensor& tensor, Holds holds) : tensor_(tensor) {
  const std::size_t size = extent_bytes(tensor);
  if (tensor.device == Device{}) {
    bytes_ = {tensor.data, size};
    return;
  }
  copy_ = Buffer(size);
  bytes_ = copy_.bytes();
  if (holds == Holds::zeros) return;
  Stream stream(tensor.device);
  copy_bytes(bytes_.data(), Device{}, tensor.data, tensor.device, size, stream);
  stream.synchronize();
}

void HostBytes::put_back() const {
  if (tensor_.device == Device{}) return;
  Stream stream(tensor_.device);
  copy_bytes(tensor_.data, tensor_.device, bytes_.data(), Device{}, bytes_.size(), stream);
  stream.synchronize();
}

void fill_zero(const Tensor& tensor) {
  Stream stream(tensor.device);
  fill_zero(tensor.data, extent_bytes(tensor), stream);
  stream.synchronize();
}

}  // namespace ballot
