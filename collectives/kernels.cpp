// Which version of the kernels this processor runs.

#include "collectives/kernels.h"

#include <array>
#include <atomic>

#include "core/error.h"

namespace ballot {
namespace {

struct Versions {
  std::array<const Kernels*, 3> list{};
  std::size_t count = 0;
  Versions() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vpopcntdq"))
      list[count++] = &kAvx512Kernels;
    if (__builtin_cpu_supports("x86-64-v3")) list[count++] = &kAvx2Kernels;
#endif
    list[count++] = &kPortableKernels;
  }
};

const Versions& versions() {
  static const Versions the_versions;
  return the_versions;
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

std::size_t kernel_versions() {
  return versions().count;
}

const Kernels& kernel_version(std::size_t index) {
  require(index < versions().count, "kernel version {} of {}", index, versions().count);
  return *versions().list[index];
}

const Kernels& kernels() {
  const Kernels* version = chosen.load(std::memory_order_acquire);
  return version != nullptr ? *version : kernel_version(0);
}

void choose_kernels(const Kernels& version) {
  chosen.store(&version, std::memory_order_release);
}

}  // namespace ballot
