// The hooks, and what a device would refuse.
#include "simt/launch.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "core/error.h"  // LogicError
#include "simt/fault.h"  // KernelFault

namespace ballot::simt {
namespace {

constexpr std::size_t kDefaultShared = 48 << 10;

std::atomic<Executor> executor = nullptr;
std::atomic<Enqueue> enqueue_hook = nullptr;
std::atomic<FindAllocation> find_hook = nullptr;

std::mutex allowed_mutex;
std::map<const void*, std::size_t>& allowed() {
  static std::map<const void*, std::size_t> map;
  return map;
}

unsigned long long seed_of_environment() {
  const char* text = std::getenv("BALLOT_SIMT_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}
std::atomic<unsigned long long> first_seed = seed_of_environment();
std::atomic<unsigned> seed_generation = 0;

std::string shape(dim3 d) {
  return fmt::format("({}, {}, {})", d.x, d.y, d.z);
}

void check_pointers(const Launch& launch) {
  const FindAllocation find = find_hook;
  if (find == nullptr) return;
  for (std::size_t i = 0; i < launch.parameters.size(); ++i) {
    const Parameter& parameter = launch.parameters[i];
    if (!parameter.is_pointer) continue;
    const std::byte* address = nullptr;
    std::memcpy(&address, parameter.bytes.data(), sizeof address);
    Allocation found;
    // An empty range may begin just behind an allocation.
    if (address != nullptr && !find(address, found) && !find(address - 1, found))
      throw KernelFault(fmt::format("{}: argument {} points to {}, which is not device memory",
                                    describe(launch), i, static_cast<const void*>(address)));
  }
}

}  // namespace

std::string mangled_name(const void* kernel) {
  Dl_info info{};
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr || info.dli_saddr != kernel)
    return {};
  return info.dli_sname;
}

std::string describe(const Launch& launch) {
  std::string kernel = mangled_name(launch.kernel);
  int status = 0;
  char* readable = abi::__cxa_demangle(kernel.c_str(), nullptr, nullptr, &status);
  if (status == 0) kernel = readable;
  std::free(readable);
  if (kernel.empty()) kernel = fmt::format("kernel at {}", launch.kernel);
  return fmt::format("{}, grid {}, block {}", kernel, shape(launch.grid), shape(launch.block));
}

void check_launch(const Launch& launch) {
  const auto refuse = [&](const std::string& why) {
    throw LogicError("launch of " + describe(launch) + ": " + why);
  };
  const dim3 &grid = launch.grid, &block = launch.block;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) refuse("the grid is empty");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    refuse("the grid is larger than (2^31 - 1, 65535, 65535)");
  if (block.y != 1 || block.z != 1) refuse("our kernels have blocks of one dimension");
  if (block.x == 0 || block.x > 1024 || block.x % 32 != 0)
    refuse("a block has a multiple of 32 threads, at most 1024");
  if (launch.shared_bytes > allowed_dynamic_shared(launch.kernel))
    refuse(fmt::format("{} bytes of dynamic shared memory, allowed are {}", launch.shared_bytes,
                       allowed_dynamic_shared(launch.kernel)));
}

void allow_dynamic_shared(const void* kernel, std::size_t bytes) {
  const std::lock_guard lock(allowed_mutex);
  allowed()[kernel] = bytes;
}

std::size_t allowed_dynamic_shared(const void* kernel) {
  const std::lock_guard lock(allowed_mutex);
  const auto found = allowed().find(kernel);
  return found == allowed().end() ? kDefaultShared : std::max(kDefaultShared, found->second);
}

void execute(const Launch& launch) {
  check_pointers(launch);
  const Executor chosen = executor;
  (chosen != nullptr ? chosen : execute_by_fibers)(launch);
}

void set_executor(Executor chosen) {
  executor = chosen;
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
  const Enqueue hook = enqueue_hook;
  if (hook != nullptr)
    hook(stream, std::move(work));
  else
    work();
}

void set_enqueue(Enqueue enqueue) {
  enqueue_hook = enqueue;
}

void set_find_allocation(FindAllocation find) {
  find_hook = find;
}

FindAllocation find_allocation() {
  return find_hook;
}

void set_seed(unsigned long long seed) {
  first_seed = seed;
  ++seed_generation;
}

unsigned long long next_launch_seed() {
  thread_local unsigned generation = ~0u;
  thread_local unsigned long long next = 0;
  if (generation != seed_generation) {
    generation = seed_generation;
    next = first_seed;
  }
  return next++;
}

}  // namespace ballot::simt
