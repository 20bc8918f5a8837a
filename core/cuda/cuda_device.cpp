// Which GPU, and what it is.
#include <fmt/format.h>

#include "core/cuda/cuda_check.h"
#include "core/cuda/cuda_stream.h"
#include "core/cuda/plugin_core.h"

namespace ballot {
namespace {

// The oldest that the plugin is compiled for.
constexpr int kMinMajor = 8;

std::string version_text(int version) {  // 13000 -> "13.0"
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

}  // namespace

void use_device(Device device) {
  require(device.kind == Device::Kind::cuda, "{} given to the CUDA backend", to_string(device));
  check(cudaSetDevice(device.index), "use {}", to_string(device));
}

int PluginCore::device_count() {
  int count = 0;  // left alone by the call where there is no driver
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess) {
    (void)cudaGetLastError();
    throw Unavailable("device = \"cuda\": no usable GPU: {} ({}), {}", cudaGetErrorName(code),
                      static_cast<int>(code), cudaGetErrorString(code));
  }
  if (count == 0) throw Unavailable("device = \"cuda\": this machine has no GPU");
  return count;
}

Device PluginCore::find_device(int index) {
  const int count = device_count();
  const Device device{Device::Kind::cuda, index};
  if (index < 0 || index >= count)
    throw Unavailable("device = \"{}\": this machine has {} GPU{}, numbered from 0",
                      to_string(device), count, count == 1 ? "" : "s");
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index),
        "ask {} for its compute capability", to_string(device));
  if (major < kMinMajor)
    throw Unavailable("device = \"cuda\": {}; needs compute capability {}.0 or newer",
                      describe(device), kMinMajor);
  return device;
}

std::string PluginCore::describe(Device device) {
  cudaDeviceProp properties{};
  int runtime = 0, driver = 0;
  check(cudaGetDeviceProperties(&properties, device.index), "describe {}", to_string(device));
  check(cudaRuntimeGetVersion(&runtime), "ask for the runtime's version");
  check(cudaDriverGetVersion(&driver), "ask for the driver's version");
  return fmt::format("{}, {:.1f} GiB, compute capability {}.{}, CUDA {}, driver {}",
                     properties.name, static_cast<double>(properties.totalGlobalMem) / (1 << 30),
                     properties.major, properties.minor, version_text(runtime),
                     version_text(driver));
}

std::size_t PluginCore::free_bytes(Device device) {
  use_device(device);
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "ask {} for its free memory", to_string(device));
  return free;
}

}  // namespace ballot
