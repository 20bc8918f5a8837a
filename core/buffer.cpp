#include "core/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/cuda/cuda_core.h"
#include "core/error.h"

namespace ballot {
namespace {
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::byte* allocate_on_cpu(std::size_t size_bytes) {
  // Large buffers start on a huge page: the arena is streamed through every step and 4 KiB pages
  // cost a tenth of it.
  const std::size_t alignment = size_bytes >= 2 * kHugePage ? kHugePage : kAlignment;
  const std::size_t rounded = (size_bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw Unavailable("out of memory: asked for {} bytes", size_bytes);
  if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
  std::memset(memory, 0, rounded);
  return static_cast<std::byte*>(memory);
}

}  // namespace

Buffer::Buffer(std::size_t size_bytes, Device device) : size_bytes_(size_bytes), device_(device) {
  if (size_bytes == 0) return;
  data_ = device.kind == Device::Kind::cuda ? cuda_core().allocate(size_bytes, device)
                                            : allocate_on_cpu(size_bytes);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(device_, other.device_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_.kind == Device::Kind::cuda)
    cuda_core().release(data_, device_);
  else
    std::free(data_);
}

}  // namespace ballot
