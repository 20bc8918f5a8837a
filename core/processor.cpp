// What the processor offers for matrix products, as oneDNN sees it.
#include <dnnl.hpp>

#include "core/cuda/cuda_core.h"
#include "core/device.h"

namespace ballot {

// The instruction set that oneDNN will really use (DNNL_MAX_CPU_ISA lowers it), not merely what the
// processor has.
std::string processor_features(Device device) {
  if (device.kind == Device::Kind::cuda) return cuda_core().describe(device);
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    default:
      return "portable";
  }
}

bool has_native_bf16(Device device) {
  if (device.kind == Device::Kind::cuda) return true;  // the oldest that is built for has it
  const auto isa = dnnl::get_effective_cpu_isa();
  return isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
}

bool has_bf16(Device device) {
  const auto isa = dnnl::get_effective_cpu_isa();
  return has_native_bf16(device) || isa == dnnl::cpu_isa::avx512_core ||
         isa == dnnl::cpu_isa::avx512_core_vnni;
}

}  // namespace ballot
