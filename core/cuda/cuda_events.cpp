// Events: points in a stream's work.
#include "core/cuda/cuda_check.h"
#include "core/cuda/cuda_stream.h"
#include "core/cuda/plugin_core.h"

namespace ballot {

void* PluginCore::make_event(Device device) {
  use_device(device);
  OwnedEvent made;
  // Without times, which would make it slower, and nobody reads.
  check(cudaEventCreateWithFlags(made.address(), cudaEventDisableTiming), "make an event on {}",
        to_string(device));
  return made.release();
}

void PluginCore::release_event(void* event) noexcept {
  (void)cudaEventDestroy(static_cast<cudaEvent_t>(event));
}

void PluginCore::record(void* event, Stream& stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event), stream_of(stream)),
        "record an event on {}", to_string(stream.device()));
}

bool PluginCore::is_done(void* event) {
  const cudaError_t code = cudaEventQuery(static_cast<cudaEvent_t>(event));
  if (code == cudaErrorNotReady) {
    (void)cudaGetLastError();  // no error: must not be found by the next launch
    return false;
  }
  check(code, "ask for an event");
  return true;
}

void PluginCore::wait(void* event) {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "wait for an event");
}

void PluginCore::hold(Stream& stream, void* event) {
  check(cudaStreamWaitEvent(stream_of(stream), static_cast<cudaEvent_t>(event), 0),
        "make a stream of {} wait for an event", to_string(stream.device()));
}

}  // namespace ballot
