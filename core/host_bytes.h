// A tensor's bytes where the host can read and write them: the tensor's own memory on the CPU, a
// copy of it for any other device.
//
// From the first element to the last, with what lies between rows. For starting, saving and
// repairing, not for steps: it takes memory and waits for copies.
#pragma once

#include <span>

#include "core/buffer.h"  // Buffer
#include "core/tensor.h"  // Tensor

namespace ballot {

class HostBytes {
 public:
  enum class Holds { what_it_has, zeros };  // a copy, at first
  explicit HostBytes(const Tensor& tensor, Holds holds = Holds::what_it_has);

  std::byte* data() const { return bytes_.data(); }
  std::span<std::byte> bytes() const { return bytes_; }
  void put_back() const;  // what was written becomes the tensor's

 private:
  Tensor tensor_;
  Buffer copy_;
  std::span<std::byte> bytes_;
};

// Rows of the first dimension must be whole: zeroes what lies between them too.
void fill_zero(const Tensor& tensor);

}  // namespace ballot
