// Owns bytes on one device. Move-only; zeroed when made; aligned to 64 bytes (a cache line, an
// AVX-512 register), on a GPU to 256. A GPU's bytes must not be touched by the host: core/copy.h.
//
// Memory is taken when a run starts, not per step: on a GPU making and ending a buffer wait for the
// device. Throws Unavailable, naming the size, when there
// is not enough.
#pragma once

#include <cstddef>
#include <span>

#include "core/device.h"  // Device

namespace ballot {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size_bytes, Device device = {});
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() const { return data_; }  // an address of the device's
  std::size_t size_bytes() const { return size_bytes_; }
  Device device() const { return device_; }
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
  Device device_;
};

}  // namespace ballot
