// Where bytes live and work runs: `Device` is a value, `Stream` owns an order of work on one
// device.
//
// On the CPU a stream runs each operation to its end before the call returns, on the calling
// thread's OpenMP team; on a GPU the call returns before the work is done. What a caller may rely
// on everywhere: operations given to one stream run in the order given, and their results may be
// read on the host only after synchronize().
#pragma once

#include <compare>
#include <cstddef>
#include <memory>
#include <string>

namespace ballot {

struct Device {
  enum class Kind { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;
  auto operator<=>(const Device&) const = default;
};

std::string to_string(Device device);

// "cpu" -> the CPU. "cuda" -> the GPU of the local_rank-th worker on this machine (they take turns
// where there are fewer), "cuda:1" -> that GPU; Unavailable saying why where there is none. "auto"
// -> as "cuda", else the CPU; *reason says which and why, and is for the log: never a silent
// fallback.
Device find_device(const std::string& name, int local_rank = 0, std::string* reason = nullptr);

// How a GPU multiplies f32 matrices: in f32, or from inputs rounded to TF32 (10 bits of fraction),
// several times faster. Sums are f32 in both.
enum class Float32Products { full, tf32 };

class Stream {
 public:
  explicit Stream(Device device = {});
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  Device device() const { return device_; }
  void* handle() const { return handle_; }  // a cudaStream_t; null on the CPU
  void synchronize();                       // waits for all work given to it

  // Of the products given to it from now on; the CPU's are always full.
  void set_float32_products(Float32Products products) { float32_products_ = products; }
  Float32Products float32_products() const { return float32_products_; }

  // Memory for one op at a time, of a GPU's stream only: on the device, and of the host for copies
  // to and from it. Kept from op to op and grown where more is asked for, so that steps take
  // none; given back with the stream. What the op before left there is lost.
  std::byte* scratch(std::size_t size_bytes);
  std::byte* pinned_scratch(std::size_t size_bytes);

 private:
  struct Scratch;
  Device device_;
  void* handle_ = nullptr;
  Float32Products float32_products_ = Float32Products::full;
  std::unique_ptr<Scratch> scratch_;
};

// What computes matrix products there, e.g. "avx512_core_amx" or "NVIDIA H100 80GB HBM3, ..."; part
// of a run's record, because the bits of floating-point products depend on it.
std::string processor_features(Device device = {});
// True where bf16 products run on instructions made for them (AVX512_BF16 or AMX); elsewhere from
// AVX-512 up they are emulated and slower than fp32, and below AVX-512 they do not exist.
bool has_native_bf16(Device device = {});
bool has_bf16(Device device = {});

}  // namespace ballot
