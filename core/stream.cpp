// A stream of either kind of device, and the scratch memory that goes with one.
#include <algorithm>
#include <vector>

#include "core/buffer.h"
#include "core/copy.h"  // PinnedBuffer
#include "core/cuda/cuda_core.h"
#include "core/device.h"
#include "core/error.h"

namespace ballot {

// Giving memory back waits for all work of its device, also of streams that wait for another
// machine. What was outgrown stays until the stream ends: at most twice as much as is in use.
struct Stream::Scratch {
  std::vector<Buffer> device;  // the last is in use
  std::vector<PinnedBuffer> pinned;

  template <class Memory>
  static std::byte* last_of(std::vector<Memory>& all, std::size_t size_bytes, Device device) {
    const std::size_t before = all.empty() ? 0 : all.back().size_bytes();
    if (all.empty() || before < size_bytes)
      all.emplace_back(std::max(size_bytes, before * 3 / 2), device);
    return all.back().data();
  }
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
  return Scratch::last_of(scratch_->device, size_bytes, device_);
}

std::byte* Stream::pinned_scratch(std::size_t size_bytes) {
  require(handle_ != nullptr, "{} bytes of pinned scratch of a stream of {}", size_bytes,
          to_string(device_));
  if (scratch_ == nullptr) scratch_ = std::make_unique<Scratch>();
  return Scratch::last_of(scratch_->pinned, size_bytes, device_);
}

}  // namespace ballot
