// The blocks of a launch that are resident together, their threads as fibers, and what threads of a
// warp or block do together.
//
// A thread runs until a warp function or barrier makes it wait. Who runs next is drawn from the
// launch's seed: for half of the blocks any thread that can run, for half of them the last that
// became able to, so that one warp runs ahead of the others as far as the barriers let it; which
// finds reuse of shared memory without a barrier. On one CPU thread.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "simt/fiber.h"   // Fiber
#include "simt/launch.h"  // Launch

namespace ballot::simt {

// A place in a kernel's source.
struct Site {
  const char* file = nullptr;
  int line = 0;
};

enum class WarpOp : std::uint8_t {
  sync,
  vote,  // the ballot; any and all are made of it
  shuffle,
  add_signed,
  min_signed,
  max_signed,
  min_unsigned,
  max_unsigned,
  bit_and,
  bit_or,
  bit_xor,
  match_any,
};
const char* to_string(WarpOp op);

struct Block;
struct Warp;

struct Thread {
  uint3 thread_idx;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int lane = 0;
  enum class State : std::uint8_t { unstarted, running, ready, in_warp_op, at_barrier, returned };
  State state = State::unstarted;
  Fiber* fiber = nullptr;
  // What it waits in.
  Site site;
  WarpOp op = WarpOp::sync;
  unsigned mask = 0;
  // What it brought to and what it gets from a warp function.
  std::uint64_t given = 0;
  int source_lane = 0;
  std::uint64_t result = 0;
};

// Lanes of one mask that gather for one warp function.
struct Gathering {
  unsigned mask = 0;
  unsigned arrived = 0;
};

struct Warp {
  Thread* lanes = nullptr;  // 32
  unsigned returned = 0;    // lanes that are at their end
  std::vector<Gathering> gatherings;
};

struct SharedArray {
  const void* key = nullptr;
  std::byte* begin = nullptr;
  std::size_t bytes = 0;
  const char* name = nullptr;
};

struct Block {
  uint3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<SharedArray> shared;
  std::byte* shared_memory = nullptr;  // of this block, one that is resident
  std::size_t shared_used = 0;         // with the guards
  std::size_t shared_bytes = 0;        // without
  bool run_ahead = false;
  unsigned waiting_at_barrier = 0;
  unsigned returned = 0;
  Site barrier;
};

// The running thread; null outside of kernels.
extern thread_local Thread* current_thread __attribute__((tls_model("initial-exec")));
extern thread_local const Launch* current_launch __attribute__((tls_model("initial-exec")));

// One thread's part of a warp function: waits until all lanes of `mask` are in the same one.
std::uint64_t warp_function(WarpOp op, unsigned mask, std::uint64_t given, int source_lane,
                            Site site);
void barrier(Site site);
// Lets another thread run, now and then; atomics are where blocks meet.
void perhaps_yield();

// The block's array of this key (one for each declaration), of exactly `bytes`, filled with 0xff at
// first, between guards.
void* shared_array(const void* key, std::size_t bytes, std::size_t alignment, const char* name);
void* dynamic_shared();

// Throws the KernelFault that ends the launch: what, where and who.
[[noreturn]] void fault(const std::string& what, Site site = {});
void require_aligned(const void* address, std::size_t alignment, const char* what);

}  // namespace ballot::simt
