// Device memory, pinned memory and copies.
#include "core/cuda/cuda_check.h"
#include "core/cuda/cuda_stream.h"
#include "core/cuda/plugin_core.h"

namespace ballot {
namespace {

bool is_pinned(const void* host) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, host), "ask what kind of memory {} is", host);
  return attributes.type == cudaMemoryTypeHost;
}

// The runtime stages pageable memory as it likes; here such a copy has always ended on return.
void finish_unless_pinned(const void* host, cudaStream_t stream, const char* what,
                          std::size_t bytes) {
  if (!is_pinned(host)) check(cudaStreamSynchronize(stream), "{} {} bytes", what, bytes);
}

}  // namespace

std::byte* PluginCore::allocate(std::size_t bytes, Device device) {
  use_device(device);
  OwnedDeviceMemory memory;
  const cudaError_t code = cudaMalloc(memory.address(), bytes);
  if (code == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Unavailable("out of memory on {}: asked for {} bytes, {} are free", to_string(device),
                      bytes, free_bytes(device));
  }
  check(code, "allocate {} bytes on {}", bytes, to_string(device));
  // A stream of its own, waited for: whichever stream uses the memory finds it zeroed.
  OwnedStream stream;
  check(cudaStreamCreateWithFlags(stream.address(), cudaStreamNonBlocking), "make a stream on {}",
        to_string(device));
  check(cudaMemsetAsync(memory.get(), 0, bytes, stream.get()), "zero {} bytes on {}", bytes,
        to_string(device));
  check(cudaStreamSynchronize(stream.get()), "zero {} bytes on {}", bytes, to_string(device));
  return static_cast<std::byte*>(memory.release());
}

// cudaFree waits for the device, so no work can still use the memory.
void PluginCore::release(std::byte* memory, Device device) noexcept {
  (void)cudaSetDevice(device.index);
  (void)cudaFree(memory);
  (void)cudaGetLastError();  // or the next launch would be blamed
}

std::byte* PluginCore::allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), "allocate {} bytes of pinned memory",
        bytes);
  return static_cast<std::byte*>(memory);
}

void PluginCore::release_pinned(std::byte* memory) noexcept {
  (void)cudaFreeHost(memory);
  (void)cudaGetLastError();
}

void PluginCore::copy_to_device(std::byte* to, const std::byte* from, std::size_t bytes,
                                Stream& stream) {
  const cudaStream_t handle = stream_of(stream);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, handle),
        "copy {} bytes to the device", bytes);
  finish_unless_pinned(from, handle, "copy to the device", bytes);
}

void PluginCore::copy_to_host(std::byte* to, const std::byte* from, std::size_t bytes,
                              Stream& stream) {
  const cudaStream_t handle = stream_of(stream);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, handle),
        "copy {} bytes to the host", bytes);
  finish_unless_pinned(to, handle, "copy to the host", bytes);
}

void PluginCore::copy_on_device(std::byte* to, const std::byte* from, std::size_t bytes,
                                Stream& stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(stream)),
        "copy {} bytes on the device", bytes);
}

void PluginCore::copy_rows(CopyKind kind, std::byte* to, std::size_t to_pitch,
                           const std::byte* from, std::size_t from_pitch, std::size_t row_bytes,
                           std::int64_t rows, Stream& stream) {
  const cudaStream_t handle = stream_of(stream);
  const cudaMemcpyKind direction = kind == CopyKind::to_device ? cudaMemcpyHostToDevice
                                   : kind == CopyKind::to_host ? cudaMemcpyDeviceToHost
                                                               : cudaMemcpyDeviceToDevice;
  check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, rows, direction, handle),
        "copy {} rows of {} bytes, {} and {} bytes apart", rows, row_bytes, from_pitch, to_pitch);
  if (kind == CopyKind::to_device)
    finish_unless_pinned(from, handle, "copy to the device", row_bytes * rows);
  if (kind == CopyKind::to_host)
    finish_unless_pinned(to, handle, "copy to the host", row_bytes * rows);
}

void PluginCore::fill_zero(std::byte* memory, std::size_t bytes, Stream& stream) {
  check(cudaMemsetAsync(memory, 0, bytes, stream_of(stream)), "zero {} bytes", bytes);
}

}  // namespace ballot
