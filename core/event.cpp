#include "core/event.h"

#include <utility>

#include "core/cuda/cuda_core.h"
#include "core/error.h"

namespace ballot {

Event::Event(Device device) : device_(device) {
  if (device.kind == Device::Kind::cuda) handle_ = cuda_core().make_event(device);
}

Event::Event(Event&& other) noexcept
    : device_(other.device_), handle_(std::exchange(other.handle_, nullptr)) {}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  return *this;
}

Event::~Event() {
  if (handle_ != nullptr) cuda_core().release_event(handle_);
}

void Event::record(Stream& stream) {
  require(stream.device() == device_, "an event of {} on a stream of {}", to_string(device_),
          to_string(stream.device()));
  if (handle_ != nullptr) cuda_core().record(handle_, stream);
}

bool Event::done() const {
  return handle_ == nullptr || cuda_core().is_done(handle_);
}

void Event::wait() const {
  if (handle_ != nullptr) cuda_core().wait(handle_);
}

void Event::hold(Stream& stream) const {
  if (handle_ != nullptr) cuda_core().hold(stream, handle_);
}

}  // namespace ballot
