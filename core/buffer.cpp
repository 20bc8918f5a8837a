#include "core/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace ballot {
namespace {
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
}  // namespace

Buffer::Buffer(std::size_t size_bytes, Device device) : size_bytes_(size_bytes), device_(device) {
  require(device.kind == Device::Kind::cpu, "buffer on {}: this build has only the CPU",
          to_string(device));
  if (size_bytes == 0) return;
  // Large buffers start on a huge page: the arena is streamed through every step and 4 KiB pages
  // cost a tenth of it.
  const std::size_t alignment = size_bytes >= 2 * kHugePage ? kHugePage : kAlignment;
  const std::size_t rounded = (size_bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw Unavailable("out of memory: asked for {} bytes", size_bytes);
  if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
  std::memset(memory, 0, rounded);
  data_ = static_cast<std::byte*>(memory);
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
  std::free(data_);
}

}  // namespace ballot
