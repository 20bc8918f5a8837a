// The functions of the CUDA runtime that the backend uses, on host memory: linked in cudart's place
// by tests, compiled against its real headers.
//
// What the documentation demands is demanded here: live handles, memory of the right kind and whole
// inside one allocation, the current device. What it leaves open is decided unkindly (work_queue.h,
// device_memory.h). A function that is not here is a link error: add it with its rules.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "simt/launch.h"
#include "stand_ins/call.h"
#include "stand_ins/device_memory.h"
#include "stand_ins/work_queue.h"

namespace ballot::stand_in {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

int device_count() {
  const char* text = std::getenv("BALLOT_STAND_IN_DEVICES");
  return text == nullptr ? 1 : std::atoi(text);
}

// Pinned host memory, by its first byte.
std::map<const std::byte*, std::size_t>& pinned() {
  static auto* instance = new std::map<const std::byte*, std::size_t>;
  return *instance;
}

bool is_pinned(const void* address) {
  const auto* wanted = static_cast<const std::byte*>(address);
  auto at = pinned().upper_bound(wanted);
  if (at == pinned().begin()) return false;
  --at;
  return wanted < at->first + at->second;
}

void require_pinned_inside(const void* address, std::size_t bytes, const char* what) {
  const auto* wanted = static_cast<const std::byte*>(address);
  auto at = pinned().upper_bound(wanted);
  if (at == pinned().begin() || wanted + bytes > (--at)->first + at->second)
    refuse(cudaErrorInvalidValue, "{} is {} bytes at {}, more than there is of pinned memory", what,
           bytes, address);
}

void require_host(const void* address, const char* what) {
  if (address == nullptr) refuse(cudaErrorInvalidValue, "{} is null", what);
  if (is_device_address(address))
    refuse(cudaErrorInvalidValue, "{} is {}, expected host memory", what, describe(address));
}

struct Rows {
  std::size_t row_bytes, rows, to_pitch, from_pitch;
  std::size_t to_span() const { return rows == 0 ? 0 : (rows - 1) * to_pitch + row_bytes; }
  std::size_t from_span() const { return rows == 0 ? 0 : (rows - 1) * from_pitch + row_bytes; }
};

void move_rows(void* to, const void* from, const Rows& r) {
  for (std::size_t i = 0; i < r.rows; ++i)
    std::memcpy(static_cast<std::byte*>(to) + i * r.to_pitch,
                static_cast<const std::byte*>(from) + i * r.from_pitch, r.row_bytes);
}

cudaError_t copy(void* to, const void* from, const Rows& r, cudaMemcpyKind kind,
                 cudaStream_t stream, const char* who) {
  require_stream(stream, who);
  if (r.row_bytes * r.rows == 0) return cudaSuccess;
  if (r.rows > 1 && (r.to_pitch < r.row_bytes || r.from_pitch < r.row_bytes))
    refuse(cudaErrorInvalidPitchValue, "{}: rows of {} bytes, {} and {} bytes apart", who,
           r.row_bytes, r.from_pitch, r.to_pitch);
  const std::string what = fmt::format("{} of {} x {} bytes to {} from {}", who, r.rows,
                                       r.row_bytes, describe(to), describe(from));
  const int device = stream->device;
  const auto check_to = [=] { require_inside(to, r.to_span(), device, "a copy's target"); };
  const auto check_from = [=] { require_inside(from, r.from_span(), device, "a copy's source"); };
  switch (kind) {
    case cudaMemcpyHostToDevice: {
      require_host(from, "a copy's source");
      check_to();
      if (is_pinned(from)) {
        enqueue(stream, {what, [=] {
                           require_pinned_inside(from, r.from_span(), "a copy's source");
                           check_to();
                           move_rows(to, from, r);
                           return true;
                         }});
      } else {  // staged before the call returns
        auto staged = std::make_shared<std::vector<std::byte>>(r.row_bytes * r.rows);
        move_rows(staged->data(), from, {r.row_bytes, r.rows, r.row_bytes, r.from_pitch});
        enqueue(stream,
                {what, [=] {
                   check_to();
                   move_rows(to, staged->data(), {r.row_bytes, r.rows, r.to_pitch, r.row_bytes});
                   return true;
                 }});
      }
      return cudaSuccess;
    }
    case cudaMemcpyDeviceToHost:
      require_host(to, "a copy's target");
      check_from();
      enqueue(stream, {what, [=, pinned = is_pinned(to)] {
                         if (pinned) require_pinned_inside(to, r.to_span(), "a copy's target");
                         check_from();
                         move_rows(to, from, r);
                         return true;
                       }});
      if (!is_pinned(to)) finish(stream, who);  // has ended when the call returns
      return cudaSuccess;
    case cudaMemcpyDeviceToDevice: {
      check_to();
      check_from();
      const auto* target = static_cast<const std::byte*>(to);
      const auto* source = static_cast<const std::byte*>(from);
      if (target < source + r.from_span() && source < target + r.to_span() && r.rows == 1)
        refuse(cudaErrorInvalidValue, "{}: source and target overlap", what);
      enqueue(stream, {what, [=] {
                         check_to();
                         check_from();
                         move_rows(to, from, r);
                         return true;
                       }});
      return cudaSuccess;
    }
    default:
      refuse(cudaErrorInvalidMemcpyDirection, "{}: kind {}; name the direction", who,
             static_cast<int>(kind));
  }
}

void require_device(int device, const char* who) {
  if (device < 0 || device >= device_count())
    refuse(cudaErrorInvalidDevice, "{} of device {} of {}", who, device, device_count());
}

// Joins launch() to the streams. The call's door is kernel.h's launch: what it finds is thrown.
void enqueue_kernel(cudaStream_t stream, std::function<void()> kernel, const std::string& what) {
  const std::lock_guard lock(device_lock());
  if (failure() != cudaSuccess) return;  // found by the next call that returns a code
  try {
    // kernel.h's launch asks for it, and takes it for the launch's own.
    if (last_error != cudaSuccess)
      refuse(cudaErrorLaunchFailure, "a launch after {}, which nobody has looked at",
             cudaGetErrorName(last_error));
    require_stream(stream, "a launch");
    if (stream->device != current_device)
      refuse(cudaErrorInvalidResourceHandle,
             "a launch on a stream of device {} while device {} is current", stream->device,
             current_device);
    enqueue(stream, {what, [kernel = std::move(kernel)] {
                       kernel();
                       return true;
                     }});
  } catch (const Violation& found) {
    keep_failure(found.code(), found.what());
  }
}

bool find_allocation(const void* address, simt::Allocation& found) {
  const Allocation* live = find(address);
  if (live == nullptr) return false;
  found = {live->begin, live->bytes};
  return true;
}

const bool joined = [] {
  simt::set_enqueue([](cudaStream_t stream, std::function<void()> work) {
    enqueue_kernel(stream, std::move(work), "a kernel");
  });
  simt::set_find_allocation(find_allocation);
  return true;
}();

}  // namespace

cudaError_t remember(cudaError_t code) {
  if (code != cudaSuccess) last_error = code;
  return code;
}

int device_of_thread() {
  return current_device;
}

}  // namespace ballot::stand_in

using namespace ballot::stand_in;
namespace simt = ballot::simt;

// ---- devices

cudaError_t cudaGetDeviceCount(int* count) {
  return call("cudaGetDeviceCount", [&] {
    if (device_count() == 0) return cudaErrorNoDevice;  // and nothing is written
    *count = device_count();
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call("cudaSetDevice", [&] {
    require_device(device, "cudaSetDevice");
    current_device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call("cudaGetDeviceProperties", [&] {
    require_device(device, "cudaGetDeviceProperties");
    *properties = {};
    std::strncpy(properties->name, "stand-in of a GPU", sizeof properties->name - 1);
    properties->totalGlobalMem = kDeviceBytes;
    properties->major = 8;
    properties->minor = 0;
    properties->multiProcessorCount = 4;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->sharedMemPerBlock = 48 << 10;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return call("cudaDeviceGetAttribute", [&] {
    require_device(device, "cudaDeviceGetAttribute");
    switch (attribute) {
      case cudaDevAttrComputeCapabilityMajor:
        *value = 8;
        return cudaSuccess;
      case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        return cudaSuccess;
      case cudaDevAttrMultiProcessorCount:
        *value = 4;
        return cudaSuccess;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = 163 << 10;
        return cudaSuccess;
      default:
        refuse(cudaErrorInvalidValue, "the stand-in has no attribute {}",
               static_cast<int>(attribute));
    }
  });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  return call("cudaDeviceSynchronize", [] {
    finish_device(current_device, "cudaDeviceSynchronize");
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceReset() {
  const std::lock_guard lock(device_lock());
  forget_streams();
  release_all();
  forget_failure();
  last_error = cudaSuccess;
  return cudaSuccess;
}

// ---- errors

cudaError_t cudaGetLastError() {
  const std::lock_guard lock(device_lock());
  if (failure() != cudaSuccess) return failure();
  return std::exchange(last_error, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
  const std::lock_guard lock(device_lock());
  return failure() != cudaSuccess ? failure() : last_error;
}

const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidPitchValue:
      return "cudaErrorInvalidPitchValue";
    case cudaErrorInvalidMemcpyDirection:
      return "cudaErrorInvalidMemcpyDirection";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchTimeout:
      return "cudaErrorLaunchTimeout";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorNotPermitted:
      return "cudaErrorNotPermitted";
    default:
      return "an error that the stand-in does not name";
  }
}

const char* cudaGetErrorString(cudaError_t code) {
  const std::lock_guard lock(device_lock());
  return code != cudaSuccess && code == failure() ? failure_text().c_str() : cudaGetErrorName(code);
}

// ---- memory

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  return call("cudaMalloc", [&] {
    if (bytes == 0) {
      *memory = nullptr;
      return cudaSuccess;
    }
    std::byte* got = allocate(bytes, current_device);
    if (got == nullptr) return cudaErrorMemoryAllocation;
    *memory = got;
    return cudaSuccess;
  });
}

cudaError_t cudaFree(void* memory) {
  return call("cudaFree", [&] {
    if (memory == nullptr) return cudaSuccess;
    const Allocation* found = find(memory);
    if (found != nullptr) finish_device(found->device, "cudaFree");
    release(static_cast<std::byte*>(memory));
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return call("cudaMemGetInfo", [&] {
    *free = free_bytes(current_device);
    *total = kDeviceBytes;
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return call("cudaHostAlloc", [&] {
    auto* made = new std::byte[bytes];
    std::memset(made, 0xff, bytes);
    pinned()[made] = bytes;
    *memory = made;
    return cudaSuccess;
  });
}

cudaError_t cudaFreeHost(void* memory) {
  return call("cudaFreeHost", [&] {
    const auto found = pinned().find(static_cast<const std::byte*>(memory));
    if (found == pinned().end())
      refuse(cudaErrorInvalidValue, "cudaFreeHost of {}: no pinned memory begins there", memory);
    for (int device = 0; device < device_count(); ++device) finish_device(device, "cudaFreeHost");
    pinned().erase(found);
    delete[] static_cast<std::byte*>(memory);
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  return call("cudaPointerGetAttributes", [&] {
    *attributes = {};
    const Allocation* found = find(address);
    attributes->type = found != nullptr     ? cudaMemoryTypeDevice
                       : is_pinned(address) ? cudaMemoryTypeHost
                                            : cudaMemoryTypeUnregistered;
    attributes->device = found != nullptr ? found->device : -1;
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call("cudaMemcpyAsync", [&] {
    return copy(to, from, {bytes, 1, bytes, bytes}, kind, stream, "cudaMemcpyAsync");
  });
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t row_bytes, std::size_t rows,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  return call("cudaMemcpy2DAsync", [&] {
    return copy(to, from, {row_bytes, rows, to_pitch, from_pitch}, kind, stream,
                "cudaMemcpy2DAsync");
  });
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  return call("cudaMemsetAsync", [&] {
    require_stream(stream, "cudaMemsetAsync");
    if (bytes == 0) return cudaSuccess;
    const auto check = [=, device = stream->device] {
      require_inside(memory, bytes, device, "what cudaMemsetAsync fills");
    };
    check();
    enqueue(stream,
            {fmt::format("cudaMemsetAsync of {} bytes at {}", bytes, describe(memory)), [=] {
               check();
               std::memset(memory, value, bytes);
               return true;
             }});
    return cudaSuccess;
  });
}

// ---- streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call("cudaStreamCreateWithFlags", [&] {
    if (flags != cudaStreamNonBlocking)
      refuse(cudaErrorInvalidValue, "a stream that waits for the legacy default stream");
    *stream = make_stream(current_device);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call("cudaStreamDestroy", [&] {
    destroy_stream(stream);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call("cudaStreamSynchronize", [&] {
    finish(require_stream(stream, "cudaStreamSynchronize"), "cudaStreamSynchronize");
    return cudaSuccess;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return call("cudaStreamQuery", [&] {
    poll(require_stream(stream, "cudaStreamQuery"));
    return stream->work.empty() ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call("cudaEventCreateWithFlags", [&] {
    *event = make_event((flags & cudaEventDisableTiming) == 0);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call("cudaEventDestroy", [&] {
    destroy_event(event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call("cudaEventRecord", [&] {
    require_event(event, "cudaEventRecord");
    require_stream(stream, "cudaEventRecord");
    const std::shared_ptr<EventState> state = event->state;
    const std::uint64_t version = ++state->recorded;
    state->stream = stream;
    enqueue(stream, {"the record of an event",
                     [=] {
                       state->completed = version;
                       state->at = std::chrono::steady_clock::now();
                       return true;
                     },
                     false});
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call("cudaStreamWaitEvent", [&] {
    require_stream(stream, "cudaStreamWaitEvent");
    require_event(event, "cudaStreamWaitEvent");
    const std::shared_ptr<EventState> state = event->state;
    const std::uint64_t version = state->recorded;  // of now, whatever is recorded later
    enqueue(stream, {"the wait for an event", [=] { return state->completed >= version; }, false});
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call("cudaEventSynchronize", [&] {
    const std::shared_ptr<EventState> state = require_event(event, "cudaEventSynchronize")->state;
    const std::uint64_t version = state->recorded;
    run_until([&] { return state->completed >= version; }, state->stream, "cudaEventSynchronize");
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call("cudaEventQuery", [&] {
    const EventState& state = *require_event(event, "cudaEventQuery")->state;
    if (state.completed < state.recorded) poll(state.stream);
    return state.completed < state.recorded ? cudaErrorNotReady : cudaSuccess;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  return call("cudaEventElapsedTime", [&] {
    for (const cudaEvent_t event : {begin, end}) {
      const EventState& state = *require_event(event, "cudaEventElapsedTime")->state;
      if (!event->timed || state.recorded == 0)
        refuse(cudaErrorInvalidResourceHandle, "the time of an event that keeps or has none");
      if (state.completed < state.recorded) return cudaErrorNotReady;
    }
    *milliseconds =
        std::chrono::duration<float, std::milli>(end->state->at - begin->state->at).count();
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return call("cudaLaunchHostFunc", [&] {
    require_stream(stream, "cudaLaunchHostFunc");
    enqueue(stream, {"a host function",
                     [=] {
                       function(data);
                       return true;
                     },
                     false});
    return cudaSuccess;
  });
}

// ---- kernels

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return call("cudaFuncSetAttribute", [&] {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
      refuse(cudaErrorInvalidValue, "the stand-in has no attribute {} of a kernel",
             static_cast<int>(attribute));
    if (value < 0 || value > 163 << 10)
      refuse(cudaErrorInvalidValue, "{} bytes of dynamic shared memory for a kernel", value);
    simt::allow_dynamic_shared(kernel, static_cast<std::size_t>(value));
    return cudaSuccess;
  });
}
