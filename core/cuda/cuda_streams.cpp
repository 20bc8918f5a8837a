// Streams and what each of them owns: its cuBLAS handle and workspace.
#include "core/cuda/cuda_check.h"
#include "core/cuda/cuda_stream.h"
#include "core/cuda/plugin_core.h"

namespace ballot {
namespace {

// cuBLAS asks for 32 MiB on Hopper and newer, and for 4 MiB before.
std::size_t workspace_bytes(Device device) {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index),
        "ask {} for its compute capability", to_string(device));
  return std::size_t{major >= 9 ? 32u : 4u} << 20;
}

}  // namespace

cudaStream_t stream_of(Stream& stream) {
  use_device(stream.device());
  return static_cast<cudaStream_t>(stream.handle());
}

void* PluginCore::make_stream(Device device) {
  use_device(device);
  StreamState state{device, {}, nullptr};
  // Not ordered with the legacy default stream, which nothing of ours uses.
  check(cudaStreamCreateWithFlags(state.stream.address(), cudaStreamNonBlocking),
        "make a stream on {}", to_string(device));
  void* handle = state.stream.get();
  const std::lock_guard lock(mutex_);
  streams_.emplace(handle, std::move(state));
  return handle;
}

void PluginCore::release_stream(void* handle) noexcept {
  StreamState state;
  {
    const std::lock_guard lock(mutex_);
    const auto found = streams_.find(handle);
    if (found == streams_.end()) return;
    state = std::move(found->second);
    streams_.erase(found);
  }
  (void)cudaSetDevice(state.device.index);
  (void)cudaStreamSynchronize(state.stream.get());  // what it was given may use the workspace
}

void PluginCore::synchronize(Stream& stream) {
  check(cudaStreamSynchronize(stream_of(stream)), "finish the work of a stream on {}",
        to_string(stream.device()));
}

cublasHandle_t PluginCore::cublas_of(Stream& stream) {
  const cudaStream_t handle = stream_of(stream);
  StreamState* state = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = streams_.find(handle);
    require(found != streams_.end(), "a product on a stream that this backend did not make");
    state = &found->second;  // a map's entries stay where they are
  }
  if (state->cublas) return state->cublas->handle.get();
  auto made = std::make_unique<Cublas>();
  const std::size_t bytes = workspace_bytes(state->device);
  check(cudaMalloc(made->workspace.address(), bytes), "allocate {} bytes for cuBLAS", bytes);
  check(cublasCreate(made->handle.address()), "make a handle on {}", to_string(state->device));
  const cublasHandle_t cublas = made->handle.get();
  // In this order: setting the stream takes the workspace away.
  check(cublasSetStream(cublas, handle), "set its stream");
  check(cublasSetWorkspace(cublas, made->workspace.get(), bytes), "set its workspace");
  // Sums over parts of K stay f32 even where the result is bf16.
  check(cublasSetMathMode(
            cublas, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                              CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
        "set its arithmetic");
  state->cublas = std::move(made);
  return cublas;
}

}  // namespace ballot
