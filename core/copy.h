// Copies between devices, in all four directions: host memory to host memory, to a GPU, from it,
// and on it.
//
// The copy runs in the stream's order. To and from a GPU it has ended on return unless the host's
// side is a PinnedBuffer: then the host may touch that side only after the stream is synchronized.
// At least one side, or none, lies on a GPU; two different GPUs are refused (LogicError), as is a
// stream of another device than theirs.
#pragma once

#include <cstddef>
#include <span>

#include "core/device.h"  // Device, Stream
#include "core/tensor.h"  // Tensor

namespace ballot {

void copy_bytes(void* to, Device to_device, const void* from, Device from_device,
                std::size_t size_bytes, Stream& stream);

// to <- from: the same type and extents, any layout of contiguous rows.
void copy(const Tensor& from, const Tensor& to, Stream& stream);

// Zero bytes, in the stream's order.
void fill_zero(void* to, std::size_t size_bytes, Stream& stream);

// Host memory that a GPU reads and writes by itself, so that copies run beside other work; plain
// memory where `device` is the CPU. Move-only; zeroed when made.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(std::size_t size_bytes, Device device);
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;
  ~PinnedBuffer();

  std::byte* data() const { return data_; }
  std::size_t size_bytes() const { return size_bytes_; }
  std::span<std::byte> bytes() const { return {data_, size_bytes_}; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  std::span<T> span() const {
    return {as<T>(), size_bytes_ / sizeof(T)};
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_bytes_ = 0;
  Buffer plain_;  // of the CPU
};

}  // namespace ballot
