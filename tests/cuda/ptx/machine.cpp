// Warps, blocks, memory and its checks.
#include "ptx/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "simt/fault.h"  // KernelFault

namespace ballot::ptx {

constexpr std::size_t kAlignment = 16;  // the largest access

Counts& counts() {
  thread_local Counts counts;
  return counts;
}

Machine::Machine(const Program& program, const simt::Launch& launch)
    : program_(program), launch_(launch) {
  const auto refuse = [&](const std::string& why) {
    throw simt::KernelFault(simt::describe(launch) + ": " + why);
  };
  const Entry& entry = *program.entry;
  if (entry.max_threads > 0 && launch.block.x > entry.max_threads)
    refuse(fmt::format("__launch_bounds__ allows {} threads", entry.max_threads));
  if (entry.parameters.size() != launch.parameters.size())
    refuse(fmt::format("the PTX has {} parameters, the launch {}", entry.parameters.size(),
                       launch.parameters.size()));
  for (std::size_t i = 0; i < launch.parameters.size(); ++i) {
    const auto& bytes = launch.parameters[i].bytes;
    if (bytes.size() != program.parameter_bytes[i])
      refuse(fmt::format("parameter {} has {} bytes in the PTX, {} in the launch", i,
                         program.parameter_bytes[i], bytes.size()));
    parameters_.resize(program.parameter_offset[i]);
    parameters_.insert(parameters_.end(), bytes.begin(), bytes.end());
  }
  block_.threads = launch.block.x;
  const std::size_t aligned = (program.static_shared + program.dynamic_alignment - 1) /
                              program.dynamic_alignment * program.dynamic_alignment;
  const std::size_t bytes =
      launch.shared_bytes > 0 ? aligned + launch.shared_bytes : program.static_shared;
  if (program.static_shared > 48 << 10)
    refuse(fmt::format("{} bytes of static shared memory", program.static_shared));
  block_.shared.resize(bytes);
  block_.shared_shadow = std::make_unique<Shadow>(bytes);
  local_stride_ = (program.local_bytes + kAlignment - 1) / kAlignment * kAlignment;
  local_.resize(local_stride_ * launch.block.x);
  warps_.resize(launch.block.x / kLanes);
  for (Warp& warp : warps_) warp.slots.resize(static_cast<std::size_t>(program.slots));
}

void Machine::run() {
  const dim3 grid = launch_.grid;
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  const bool downwards = simt::next_launch_seed() % 2 == 0;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t number = downwards ? blocks - 1 - i : i;
    run_block(number, dim3(static_cast<unsigned>(number % grid.x),
                           static_cast<unsigned>(number / grid.x % grid.y),
                           static_cast<unsigned>(number / grid.x / grid.y)));
  }
  ++counts().launches;
  counts().lane_instructions += lane_instructions;
}

void Machine::prepare(Warp& warp, int index, dim3 block_index) {
  warp.index = index;
  warp.fragments = {{0, 0xffffffffu, false}};
  warp.returned = 0;
  warp.epoch = 0;
  for (const auto& [slot, value] : program_.constants)
    warp.slots[static_cast<std::size_t>(slot)].fill(value);
  for (const auto& [slot, name] : program_.specials) {
    Slot& values = warp.slots[static_cast<std::size_t>(slot)];
    for (int lane = 0; lane < kLanes; ++lane) {
      std::uint64_t& value = values[static_cast<std::size_t>(lane)];
      if (name == "%tid.x")
        value = static_cast<std::uint64_t>(index * kLanes + lane);
      else if (name == "%tid.y" || name == "%tid.z")
        value = 0;
      else if (name == "%ntid.x")
        value = launch_.block.x;
      else if (name == "%ntid.y" || name == "%ntid.z")
        value = 1;
      else if (name == "%ctaid.x")
        value = block_index.x;
      else if (name == "%ctaid.y")
        value = block_index.y;
      else if (name == "%ctaid.z")
        value = block_index.z;
      else if (name == "%nctaid.x")
        value = launch_.grid.x;
      else if (name == "%nctaid.y")
        value = launch_.grid.y;
      else if (name == "%nctaid.z")
        value = launch_.grid.z;
      else if (name == "%laneid")
        value = static_cast<std::uint64_t>(lane);
      else if (name == "%lanemask_lt")
        value = (1u << lane) - 1;
      else if (name == "%lanemask_le")
        value = (2u << lane) - 1;
      else if (name == "%lanemask_eq")
        value = 1u << lane;
      else if (name == "%lanemask_gt")
        value = ~((2u << lane) - 1);
      else if (name == "%lanemask_ge")
        value = ~((1u << lane) - 1);
      value &= 0xffffffffu;
    }
  }
}

void Machine::run_block(std::uint64_t number, dim3 index) {
  block_.number = static_cast<std::uint32_t>(number);
  block_.epoch = 0;
  block_index_ = index;
  std::memset(block_.shared.data(), 0xff, block_.shared.size());
  block_.shared_written.assign(block_.shared.size(), 0);
  block_.shared_shadow->clear();
  for (std::size_t i = 0; i < warps_.size(); ++i) prepare(warps_[i], static_cast<int>(i), index);
  while (true) {
    std::size_t waiting = 0;
    for (Warp& warp : warps_)
      if (!warp.fragments.empty() && run_warp(warp)) ++waiting;
    if (waiting == 0) return;
    // All threads of the block at one barrier, or some will wait for ever.
    const int at = std::find_if(warps_.begin(), warps_.end(),
                                [](const Warp& w) { return !w.fragments.empty(); })
                       ->fragments[0]
                       .at;
    const Operation& barrier = program_.operations[static_cast<std::size_t>(at)];
    for (Warp& warp : warps_) {
      if (warp.returned != 0)
        fault(warp, std::countr_zero(warp.returned), barrier,
              "it has returned, but others of its block wait at this barrier");
      const Operation& here = program_.operations[static_cast<std::size_t>(warp.fragments[0].at)];
      if (&here != &barrier)
        fault(warp, 0, here,
              fmt::format("others of its block wait at another barrier, {}",
                          place(*barrier.instruction)));
    }
    ++block_.epoch;
    for (Warp& warp : warps_) warp.fragments[0] = {at + 1, warp.fragments[0].lanes, false};
  }
}

bool Machine::run_warp(Warp& warp) {
  while (!warp.fragments.empty()) {
    // Those furthest behind first, so that lanes meet again as soon as they can.
    std::size_t next = warp.fragments.size();
    for (std::size_t i = 0; i < warp.fragments.size(); ++i)
      if (!warp.fragments[i].waits &&
          (next == warp.fragments.size() || warp.fragments[i].at < warp.fragments[next].at))
        next = i;
    if (next == warp.fragments.size()) {
      const Fragment& fragment = warp.fragments[0];
      const Operation& operation = program_.operations[static_cast<std::size_t>(fragment.at)];
      if (warp.fragments.size() == 1 && operation.flow == Operation::Flow::barrier) return true;
      std::string others;
      for (std::size_t i = 1; i < warp.fragments.size(); ++i)
        others += fmt::format(
            "; the lanes {:#010x} wait at {}", warp.fragments[i].lanes,
            place(
                *program_.operations[static_cast<std::size_t>(warp.fragments[i].at)].instruction));
      fault(warp, std::countr_zero(fragment.lanes), operation,
            fmt::format("the lanes {:#010x} of its warp wait here for ever{}; returned: {:#010x}",
                        fragment.lanes, others, warp.returned));
    }
    run_fragment(warp, next);
    join(warp);
  }
  return false;
}

// Fragments at the same instruction become one.
void Machine::join(Warp& warp) {
  auto& fragments = warp.fragments;
  for (std::size_t i = 0; i < fragments.size(); ++i)
    for (std::size_t j = i + 1; j < fragments.size();)
      if (fragments[i].at == fragments[j].at) {
        fragments[i].lanes |= fragments[j].lanes;
        fragments[i].waits = false;  // perhaps all are here now
        fragments[j] = fragments.back();
        fragments.pop_back();
      } else {
        ++j;
      }
}

// Until it waits, returns, or comes to where others are.
bool Machine::run_fragment(Warp& warp, std::size_t i) {
  const bool alone = warp.fragments.size() == 1;
  while (true) {
    Fragment& fragment = warp.fragments[i];
    if (static_cast<std::size_t>(fragment.at) >= program_.operations.size())
      throw simt::KernelFault(simt::describe(launch_) + ": ran past the end of the entry");
    const Operation& operation = program_.operations[static_cast<std::size_t>(fragment.at)];
    std::uint32_t lanes = fragment.lanes;
    if (operation.guard >= 0) {
      const Slot& guard = warp.slots[static_cast<std::size_t>(operation.guard)];
      std::uint32_t holds = 0;
      for (int lane = 0; lane < kLanes; ++lane)
        holds |= static_cast<std::uint32_t>(guard[static_cast<std::size_t>(lane)] & 1) << lane;
      lanes &= operation.guard_negated ? ~holds : holds;
    }
    lane_instructions += static_cast<std::uint64_t>(std::popcount(lanes));
    Step step{*this, warp, lanes};
    switch (operation.flow) {
      case Operation::Flow::straight:
        if (lanes != 0) operation.run(step, operation);
        ++fragment.at;
        break;
      case Operation::Flow::branch:
        if (lanes == fragment.lanes) {
          fragment.at = operation.target;
        } else {
          ++fragment.at;
          if (lanes != 0) {
            fragment.lanes &= ~lanes;
            warp.fragments.push_back({operation.target, lanes, false});
            return true;
          }
        }
        break;
      case Operation::Flow::leave:
        warp.returned |= lanes;
        fragment.lanes &= ~lanes;
        ++fragment.at;
        if (fragment.lanes == 0) {
          warp.fragments[i] = warp.fragments.back();
          warp.fragments.pop_back();
          return true;
        }
        break;
      case Operation::Flow::barrier:
        if (lanes != fragment.lanes)
          fault(warp, std::countr_zero(lanes == 0 ? fragment.lanes : lanes), operation,
                "a barrier of some lanes");
        fragment.waits = true;
        return true;
      case Operation::Flow::warp:
        if (lanes != fragment.lanes)
          fault(warp, std::countr_zero(lanes == 0 ? fragment.lanes : lanes), operation,
                "a warp function of some lanes");
        gather(warp, i, lanes, operation);
        return true;
    }
    if (!alone) {
      const int at = fragment.at;
      for (std::size_t j = 0; j < warp.fragments.size(); ++j)
        if (j != i && !warp.fragments[j].waits && warp.fragments[j].at <= at) return true;
      for (std::size_t j = 0; j < warp.fragments.size(); ++j)
        if (j != i && warp.fragments[j].at == at) return true;
    }
  }
}

// A warp function: the lanes of each mask go on once all of them are here; the mask is the last
// operand.
void Machine::gather(Warp& warp, std::size_t i, std::uint32_t lanes, const Operation& operation) {
  int last = 4;
  while (operation.from[last] < 0) --last;
  const Slot masks = warp.slots[static_cast<std::size_t>(operation.from[last])];
  std::uint32_t goes_on = 0;
  for (std::uint32_t left = lanes; left != 0;) {
    const int lane = std::countr_zero(left);
    const auto mask = static_cast<std::uint32_t>(masks[static_cast<std::size_t>(lane)]);
    std::uint32_t same = 0;
    for (std::uint32_t others = left; others != 0; others &= others - 1) {
      const int other = std::countr_zero(others);
      if (static_cast<std::uint32_t>(masks[static_cast<std::size_t>(other)]) == mask)
        same |= 1u << other;
    }
    left &= ~same;
    if ((mask & same) != same)
      fault(warp, std::countr_zero(same & ~mask), operation,
            fmt::format("it is not in the mask {:#010x} it gives", mask));
    if ((mask & warp.returned) != 0)
      fault(warp, lane, operation,
            fmt::format("of its mask {:#010x} the lanes {:#010x} have returned", mask,
                        mask & warp.returned));
    if (same != mask) continue;  // some are still on their way
    Step step{*this, warp, mask};
    operation.run(step, operation);
    goes_on |= mask;
  }
  Fragment& fragment = warp.fragments[i];
  if (goes_on == fragment.lanes) {
    ++fragment.at;
    return;
  }
  fragment.lanes &= ~goes_on;
  fragment.waits = true;
  if (goes_on != 0) warp.fragments.push_back({fragment.at + 1, goes_on, false});
}

std::string Machine::place(const Instruction& instruction) const {
  const auto file = program_.module->source_files.find(instruction.source_file);
  const std::string source = file == program_.module->source_files.end()
                                 ? ""
                                 : fmt::format("{}:{}, ", file->second, instruction.source_line);
  return fmt::format("{}'{}' (line {} of the PTX)", source, instruction.text(), instruction.line);
}

void Machine::fault(const Warp& warp, int lane, const Operation& operation,
                    const std::string& what) const {
  throw simt::KernelFault(fmt::format("{}: thread {} of block ({}, {}, {}) at {}: {}",
                                      simt::describe(launch_), warp.index * kLanes + lane,
                                      block_index_.x, block_index_.y, block_index_.z,
                                      place(*operation.instruction), what));
}

Access Machine::access(int lane, const Warp& warp, const Operation& operation) const {
  Access access;
  access.by = Access::By::thread;
  access.thread = static_cast<std::uint16_t>(warp.index * kLanes + lane);
  access.block = block_.number;
  access.block_epoch = block_.epoch;
  access.warp_epoch = warp.epoch;
  access.instruction = static_cast<std::int32_t>(&operation - program_.operations.data());
  return access;
}

void Machine::report_race(const Race& race, Use use, const std::string& where, int lane,
                          const Warp& warp, const Operation& operation) const {
  static constexpr const char* kDoes[] = {"reads", "reads by the read-only path", "writes",
                                          "changes atomically"};
  const Instruction& earlier =
      *program_.operations[static_cast<std::size_t>(race.earlier.instruction)].instruction;
  const char* did = race.earlier_wrote ? "wrote" : "read";
  const std::string who =
      race.earlier.by == Access::By::thread
          ? fmt::format("thread {} of block {}", race.earlier.thread, race.earlier.block)
          : "several threads";
  fault(warp, lane, operation,
        fmt::format("{} it {} what {} {} at {}, {}", where, kDoes[static_cast<int>(use)], who, did,
                    place(earlier),
                    race.read_only_path ? "and what is read by the read-only path must not be "
                                          "written in the same launch"
                                        : "with nothing to order them: a race"));
}

std::byte* Machine::at(Space space, std::uint64_t address, std::size_t bytes, Use use, int lane,
                       const Warp& warp, const Operation& operation) {
  if (address % bytes != 0)
    fault(warp, lane, operation,
          fmt::format("address {:#x} is not a multiple of {}", address, bytes));
  if (space == Space::generic) {
    if (address - kSharedWindow < kWindowBytes) {
      space = Space::shared;
      address -= kSharedWindow;
    } else if (address - kLocalWindow < kWindowBytes) {
      space = Space::local;
      address -= kLocalWindow;
    } else {
      space = Space::global;
    }
  }
  switch (space) {
    case Space::shared:
      return shared(address, bytes, use, lane, warp, operation);
    case Space::local:
      return local(address, bytes, lane, warp, operation);
    case Space::parameter:
      if (use != Use::read || address + bytes > parameters_.size())
        fault(warp, lane, operation, "no such parameter");
      return parameters_.data() + address;
    default:
      return global(address, bytes, use, lane, warp, operation);
  }
}

std::byte* Machine::global(std::uint64_t address, std::size_t bytes, Use use, int lane,
                           const Warp& warp, const Operation& operation) {
  auto* pointer = reinterpret_cast<std::byte*>(address);
  const auto inside = [&](const Touched& touched) {
    return address - reinterpret_cast<std::uint64_t>(touched.allocation.begin) <
           touched.allocation.bytes;
  };
  if (last_touched_ >= touched_.size() || !inside(touched_[last_touched_])) {
    last_touched_ = 0;
    while (last_touched_ < touched_.size() && !inside(touched_[last_touched_])) ++last_touched_;
    if (last_touched_ == touched_.size()) {
      if (std::byte* variable = module_variable(address, bytes)) {
        if (use == Use::write || use == Use::atomic)
          fault(warp, lane, operation, "writes a variable of the module");
        return variable;
      }
      simt::Allocation found;
      const simt::FindAllocation find = simt::find_allocation();
      if (find == nullptr) fault(warp, lane, operation, "no table of allocations was set");
      if (!find(pointer, found))
        fault(warp, lane, operation, fmt::format("address {:#x} is in no allocation", address));
      touched_.push_back({found, std::make_unique<Shadow>(found.bytes + kAlignment)});
    }
  }
  Touched& touched = touched_[last_touched_];
  const std::uint64_t offset = address - reinterpret_cast<std::uint64_t>(touched.allocation.begin);
  if (offset + bytes > touched.allocation.bytes)
    fault(warp, lane, operation,
          fmt::format("{} bytes at offset {} of an allocation of {} bytes", bytes, offset,
                      touched.allocation.bytes));
  const std::uint64_t in_shadow =
      offset + reinterpret_cast<std::uint64_t>(touched.allocation.begin) % kAlignment;
  if (const auto race = touched.shadow->use(in_shadow, bytes, use, access(lane, warp, operation)))
    report_race(
        *race, use,
        fmt::format("at offset {} of an allocation of {} bytes", offset, touched.allocation.bytes),
        lane, warp, operation);
  return pointer;
}

std::byte* Machine::module_variable(std::uint64_t address, std::size_t bytes) const {
  for (const auto& [name, memory] : program_.memory->bytes) {
    const auto begin = reinterpret_cast<std::uint64_t>(memory.data());
    if (address >= begin && address + bytes <= begin + memory.size())
      return reinterpret_cast<std::byte*>(address);
  }
  return nullptr;
}

std::byte* Machine::shared(std::uint64_t offset, std::size_t bytes, Use use, int lane,
                           const Warp& warp, const Operation& operation) {
  if (offset + bytes > block_.shared.size())
    fault(warp, lane, operation,
          fmt::format("{} bytes at offset {} of {} bytes of shared memory", bytes, offset,
                      block_.shared.size()));
  if (const auto race =
          block_.shared_shadow->use(offset, bytes, use, access(lane, warp, operation)))
    report_race(*race, use, fmt::format("at offset {} of shared memory", offset), lane, warp,
                operation);
  std::uint8_t* written = block_.shared_written.data() + offset;
  if (use == Use::write) {
    std::memset(written, 1, bytes);
  } else if (std::memchr(written, 0, bytes) != nullptr) {
    fault(warp, lane, operation,
          fmt::format("reads offset {} of shared memory, which nobody has written", offset));
  }
  return block_.shared.data() + offset;
}

std::byte* Machine::local(std::uint64_t offset, std::size_t bytes, int lane, const Warp& warp,
                          const Operation& operation) {
  if (offset + bytes > program_.local_bytes)
    fault(warp, lane, operation,
          fmt::format("{} bytes at offset {} of {} bytes of local memory", bytes, offset,
                      program_.local_bytes));
  return local_.data() + static_cast<std::size_t>(warp.index * kLanes + lane) * local_stride_ +
         offset;
}

}  // namespace ballot::ptx
