// Where bytes live and work runs: `Device` is a value, `Stream` owns an order of work on one
// device.
//
// On the CPU a stream runs each operation to its end before the call returns, on the calling
// thread's OpenMP team. What a caller may rely on everywhere: operations given to one stream run in
// the order given, and their results may be read on the host only after synchronize().
#pragma once

#include <compare>
#include <string>

namespace ballot {

struct Device {
  enum class Kind { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;
  auto operator<=>(const Device&) const = default;
};

std::string to_string(Device device);

// "cpu", "auto" -> the CPU; "cuda" -> Unavailable in a build without the CUDA backend. Never a
// silent fallback.
Device find_device(const std::string& name);

class Stream {
 public:
  explicit Stream(Device device = {}) : device_(device) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  Device device() const { return device_; }
  void synchronize() {}

 private:
  Device device_;
};

// What the processor offers for matrix products, e.g. "avx512_core" or "avx512_core_amx"; part of a
// run's record, because the bits of floating-point products depend on it.
std::string processor_features();
// True where bf16 products run on instructions made for them (AVX512_BF16 or AMX); elsewhere from
// AVX-512 up they are emulated and slower than fp32, and below AVX-512 they do not exist.
bool has_native_bf16();
bool has_bf16();

}  // namespace ballot
