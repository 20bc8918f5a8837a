// The memory of the stand-in's devices: host pages that only running operations can touch.
//
// Every allocation has pages of its own with a closed page on both sides, and ends within 256 bytes
// of the one behind it. All pages are closed but those that the operation of a living Access has
// touched: host code that follows a device pointer dies with a message that names the allocation.
// Memory is 0xff (NaN in f32 and bf16) when it is given out and again when it is given back; freed
// addresses are used again at random. What lies between an allocation and its closed pages is NaN
// too, of other bits, and is checked for writes. AddressSanitizer, where it is built in, sees the
// exact ends. Callers hold the device's lock.
#pragma once

#include <cstddef>
#include <string>

namespace ballot::stand_in {

inline constexpr std::size_t kDeviceBytes = std::size_t{4} << 30;  // of one device
inline constexpr int kMaxDevices = 8;

struct Allocation {
  std::byte* begin = nullptr;
  std::size_t bytes = 0;
  int device = 0;
  int number = 0;  // in the order of making
};

// Null when the device has not so much left. bytes > 0.
std::byte* allocate(std::size_t bytes, int device);
// Throws Violation for what is no allocation's beginning, and where memory beside it was written.
void release(std::byte* memory);
// Throws Violation where memory beside an allocation was written.
void check_surroundings();
std::size_t free_bytes(int device);

// The live allocation that an address lies in; null if none.
const Allocation* find(const void* address);
// Throws Violation, naming `what`, unless all `bytes` at `address` lie in one live allocation of
// the device.
void require_inside(const void* address, std::size_t bytes, int device, const std::string& what);
// Whether an address is of any device, live or not.
bool is_device_address(const void* address);
// "device memory 0x..., 16 bytes into allocation 3 of 4096 bytes".
std::string describe(const void* address);

// As long as one lives, live allocations open as its thread touches them (a SIGSEGV of the first
// touch, which a debugger is told to pass on); then they close again.
class Access {
 public:
  explicit Access(const char* who);
  ~Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
};

// All allocations are given back, whatever they hold.
void release_all();

}  // namespace ballot::stand_in
