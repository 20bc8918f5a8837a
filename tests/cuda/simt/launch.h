// A launch as the test executors take it, and the hooks that join them to the stand-in of the CUDA
// runtime.
//
// kernel.h's launch() makes a Launch and hands `execute` as a closure to the stream; the stand-in
// runs the closure when the stream comes to it. The SIMT harness executes a launch unless another
// executor (the PTX interpreter) has been set. All setters: before the first launch.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace ballot::simt {

struct Parameter {
  std::vector<std::byte> bytes;
  bool is_pointer = false;
};

struct Launch {
  const void* kernel = nullptr;  // the host function
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;  // dynamic
  std::vector<Parameter> parameters;
  std::function<void()> call;  // what one CUDA thread does
};

// "_ZN6ballot7kernels3applyE...": by the dynamic symbol table; kernels must be exported.
std::string mangled_name(const void* kernel);
// "ballot::kernels::apply(float*, long), grid (3, 1, 1), block (256, 1, 1)".
std::string describe(const Launch& launch);

// Throws LogicError where a device would refuse the launch: an empty grid, a block that is not a
// multiple of 32 or over 1024, too much shared memory.
void check_launch(const Launch& launch);
// The stand-in of cudaFuncSetAttribute(MaxDynamicSharedMemorySize); 48 KiB without it.
void allow_dynamic_shared(const void* kernel, std::size_t bytes);
std::size_t allowed_dynamic_shared(const void* kernel);

// Runs the launch to its end on this CPU thread; throws KernelFault.
void execute(const Launch& launch);
using Executor = void (*)(const Launch& launch);
void set_executor(Executor executor);
void execute_by_fibers(const Launch& launch);  // the default

// Gives the closure to the stream; without a stand-in it is run at once.
void enqueue(cudaStream_t stream, std::function<void()> work);
using Enqueue = void (*)(cudaStream_t stream, std::function<void()> work);
void set_enqueue(Enqueue enqueue);

// The live allocation that an address lies in. Where the stand-in gives the table, every pointer
// argument of a kernel must be null or lie in (or just behind) one.
struct Allocation {
  const std::byte* begin = nullptr;
  std::size_t bytes = 0;
};
using FindAllocation = bool (*)(const void* address, Allocation& found);
void set_find_allocation(FindAllocation find);
FindAllocation find_allocation();  // null when there is no table

// Decides the order of threads, warps and blocks. $BALLOT_SIMT_SEED, or 1; every launch of a CPU
// thread goes on from it.
void set_seed(unsigned long long seed);
unsigned long long next_launch_seed();

}  // namespace ballot::simt
