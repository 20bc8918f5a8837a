// Runs a PTX entry: warps of 32 lanes, one instruction for all lanes that are at it.
//
// Lanes of a warp that branch apart go on separately, those that are furthest behind first, and
// meet where they reach the same instruction. A warp runs until its lanes wait at a barrier or have
// returned; then the next warp of the block. The order of warps does not matter for what is found:
// races are found from what orders accesses, not from what happened (shadow.h).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptx/module.h"   // Entry, Instruction
#include "ptx/shadow.h"   // Shadow, Access, Use
#include "simt/launch.h"  // Launch, Allocation

namespace ballot::ptx {

inline constexpr int kLanes = 32;
using Slot = std::array<std::uint64_t, kLanes>;  // a register of a warp

// Where pointers to shared and local memory lie among generic addresses.
inline constexpr std::uint64_t kSharedWindow = std::uint64_t{0x71} << 56;
inline constexpr std::uint64_t kLocalWindow = std::uint64_t{0x72} << 56;
inline constexpr std::uint64_t kWindowBytes = std::uint64_t{1} << 32;

struct Machine;
struct Step;
struct Operation;
using Run = void (*)(Step& step, const Operation& operation);

// An instruction made ready: registers are slots, constants lie in slots too.
struct Operation {
  enum class Flow : std::uint8_t { straight, branch, leave, barrier, warp };
  Flow flow = Flow::straight;
  bool guard_negated = false;
  int guard = -1;  // slot
  Run run = nullptr;
  int to[4] = {-1, -1, -1, -1};
  int from[5] = {-1, -1, -1, -1, -1};
  int target = 0;  // of a branch
  // Memory.
  Space space = Space::generic;
  Use use = Use::read;
  int base = -1;  // slot of the address, or none
  std::uint64_t offset = 0;
  int count = 1;  // of a vector
  int bytes = 0;  // of one element
  bool is_signed = false;
  // Conversions.
  enum class Rounding : std::uint8_t { nearest, zero, down, up };
  Rounding rounding = Rounding::nearest;
  bool to_integral = false;
  bool flush = false;  // denormals to zero
  bool saturate = false;
  const Instruction* instruction = nullptr;
};

// Variables of a module that all launches share: .global and .const, both only read.
struct ModuleMemory {
  std::map<std::string, std::vector<std::byte>> bytes;
};

// An entry made ready to run; belongs to its module.
struct Program {
  const Module* module = nullptr;
  const Entry* entry = nullptr;
  const ModuleMemory* memory = nullptr;
  std::vector<Operation> operations;
  int slots = 0;
  std::vector<std::pair<int, std::uint64_t>> constants;  // slot, value
  std::vector<std::pair<int, std::string>> specials;     // slot, "%tid.x"
  std::size_t static_shared = 0;
  std::size_t dynamic_alignment = 16;
  std::size_t local_bytes = 0;
  std::vector<std::size_t> parameter_offset;
  std::vector<std::size_t> parameter_bytes;
};

Program make_program(const Module& module, const Entry& entry, ModuleMemory& memory);

// Lanes of a warp at one instruction.
struct Fragment {
  int at = 0;
  std::uint32_t lanes = 0;
  bool waits = false;
};

struct Warp {
  int index = 0;
  std::vector<Slot> slots;
  std::vector<Fragment> fragments;
  std::uint32_t returned = 0;
  std::uint32_t epoch = 0;
};

struct Block {
  std::uint32_t number = 0;
  std::uint32_t epoch = 0;
  unsigned threads = 0;
  std::vector<std::byte> shared;
  std::vector<std::uint8_t> shared_written;  // by byte
  std::unique_ptr<Shadow> shared_shadow;
};

struct Step {
  Machine& machine;
  Warp& warp;
  std::uint32_t lanes;  // that execute
  Slot& operator[](int slot) { return warp.slots[static_cast<std::size_t>(slot)]; }
};

// How a launch behaved, for the tests of this interpreter and for the curious.
struct Counts {
  std::uint64_t launches = 0;
  std::uint64_t lane_instructions = 0;
};

struct Machine {
  explicit Machine(const Program& program, const simt::Launch& launch);
  void run();

  // The host memory behind `bytes` bytes at an address of a space, after all checks.
  std::byte* at(Space space, std::uint64_t address, std::size_t bytes, Use use, int lane,
                const Warp& warp, const Operation& operation);
  [[noreturn]] void fault(const Warp& warp, int lane, const Operation& operation,
                          const std::string& what) const;

  std::uint64_t lane_instructions = 0;

 private:
  struct Touched {
    simt::Allocation allocation;
    std::unique_ptr<Shadow> shadow;
  };
  void run_block(std::uint64_t number, dim3 index);
  void prepare(Warp& warp, int index, dim3 block_index);
  bool run_warp(Warp& warp);  // until it waits at a barrier (true) or has returned (false)
  bool run_fragment(Warp& warp, std::size_t i);
  void gather(Warp& warp, std::size_t i, std::uint32_t lanes, const Operation& operation);
  void join(Warp& warp);
  std::byte* global(std::uint64_t address, std::size_t bytes, Use use, int lane, const Warp& warp,
                    const Operation& operation);
  std::byte* module_variable(std::uint64_t address, std::size_t bytes) const;
  std::byte* shared(std::uint64_t offset, std::size_t bytes, Use use, int lane, const Warp& warp,
                    const Operation& operation);
  std::byte* local(std::uint64_t offset, std::size_t bytes, int lane, const Warp& warp,
                   const Operation& operation);
  Access access(int lane, const Warp& warp, const Operation& operation) const;
  void report_race(const Race& race, Use use, const std::string& where, int lane, const Warp& warp,
                   const Operation& operation) const;
  std::string place(const Instruction& instruction) const;

  const Program& program_;
  const simt::Launch& launch_;
  Block block_;
  dim3 block_index_;
  std::vector<Warp> warps_;
  std::vector<std::byte> parameters_;
  std::vector<std::byte> local_;  // local_stride_ bytes a thread
  std::size_t local_stride_ = 0;
  std::vector<Touched> touched_;
  std::size_t last_touched_ = 0;
};

// What this thread's launches did so far.
Counts& counts();

}  // namespace ballot::ptx
