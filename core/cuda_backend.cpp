#include "core/cuda_backend.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "core/cuda/cuda_core.h"
#include "core/error.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPluginName = "libballot_cuda.so";

// Where the plugin may lie, in the order of asking. A named file is the only candidate.
std::vector<fs::path> candidates() {
  if (const char* named = std::getenv("BALLOT_CUDA_PLUGIN"); named != nullptr && *named != '\0')
    return {named};
  std::error_code unreadable;
  const fs::path program = fs::read_symlink("/proc/self/exe", unreadable).parent_path();
  std::vector<fs::path> paths;
  if (!unreadable) paths = {program / kPluginName, program / ".." / "lib" / kPluginName};
  paths.push_back(fs::path(BALLOT_PLUGIN_FOLDER) / kPluginName);
  return paths;
}

const CudaBackend& load(const fs::path& path) {
  // Local: what the plugin links (another fmt, cuBLAS) must not answer this program's calls. Now: a
  // missing library is found here, not in the middle of a step.
  void* plugin = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (plugin == nullptr)
    throw Unavailable("device = \"cuda\": {} cannot be loaded: {}", path.string(), dlerror());
  const auto find = reinterpret_cast<FindCudaBackend>(dlsym(plugin, kFindCudaBackend));
  if (find == nullptr)
    throw Unavailable("device = \"cuda\": {} is no CUDA backend: {}", path.string(), dlerror());
  const CudaBackend* backend = find(kCudaBackendAbi);
  if (backend == nullptr)
    throw Unavailable("device = \"cuda\": {} is of another build than this program (interface {})",
                      path.string(), kCudaBackendAbi);
  return *backend;
}

const CudaBackend& find_and_load() {
  std::string looked;
  for (const fs::path& path : candidates()) {
    std::error_code unreadable;
    if (fs::exists(path, unreadable)) return load(path);
    looked += (looked.empty() ? "" : ", ") + path.lexically_normal().string();
  }
  throw Unavailable(
      "device = \"cuda\": the CUDA backend is not installed (looked for {}); use device = \"cpu\" "
      "or \"auto\"",
      looked);
}

}  // namespace

const CudaBackend& cuda_backend() {
  static const CudaBackend& backend = find_and_load();
  return backend;
}

CudaCore& cuda_core() {
  return *cuda_backend().core;
}

Device find_cuda_device(int local_rank) {
  return cuda_core().find_device(local_rank % cuda_core().device_count());
}

}  // namespace ballot
