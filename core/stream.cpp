// A stream of either kind of device, and the scratch memory that goes with one.
#include <algorithm>

#include "core/buffer.h"
#include "core/copy.h"  // PinnedBuffer
#include "core/cuda/cuda_core.h"
#include "core/device.h"
#include "core/error.h"

namespace ballot {

struct Stream::Scratch {
  Buffer device;
  PinnedBuffer pinned;
};

Stream::Stream(Device device) : device_(device) {
  if (device.kind == Device::Kind::cuda) handle_ = cuda_core().make_stream(device);
}

Stream::~Stream() {
  if (handle_ != nullptr) cuda_core().release_stream(handle_);  // waits: work may use scratch_
}

void Stream::synchronize() {
  if (handle_ != nullptr) cuda_core().synchronize(*this);
}

std::byte* Stream::scratch(std::size_t size_bytes) {
  require(handle_ != nullptr, "{} bytes of scratch of a stream of {}", size_bytes,
          to_string(device_));
  if (scratch_ == nullptr) scratch_ = std::make_unique<Scratch>();
  if (Buffer& memory = scratch_->device; memory.size_bytes() < size_bytes) {
    synchronize();
    const std::size_t grown = std::max(size_bytes, memory.size_bytes() * 3 / 2);
    memory = Buffer();  // before the new one is there
    memory = Buffer(grown, device_);
  }
  return scratch_->device.data();
}

std::byte* Stream::pinned_scratch(std::size_t size_bytes) {
  require(handle_ != nullptr, "{} bytes of pinned scratch of a stream of {}", size_bytes,
          to_string(device_));
  if (scratch_ == nullptr) scratch_ = std::make_unique<Scratch>();
  if (PinnedBuffer& memory = scratch_->pinned; memory.size_bytes() < size_bytes) {
    synchronize();
    const std::size_t grown = std::max(size_bytes, memory.size_bytes() * 3 / 2);
    memory = PinnedBuffer();
    memory = PinnedBuffer(grown, device_);
  }
  return scratch_->pinned.data();
}

}  // namespace ballot
