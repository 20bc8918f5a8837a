// Makes a parsed entry ready to run. Every opcode, modifier and operand that is not known here is
// refused (PtxError).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <set>

#include "ptx/arithmetic.h"  // find_arithmetic, find_conversion
#include "ptx/machine.h"
#include "ptx/words.h"  // value_of, word_of

namespace ballot::ptx {
namespace {

int bytes_of(const std::string& type) {
  if (type.size() < 2) return 0;
  const std::string bits = type.substr(1);
  if (bits == "8") return 1;
  if (bits == "16") return 2;
  if (bits == "32") return 4;
  if (bits == "64") return 8;
  return 0;
}

template <class Each>
void for_lanes(Step& step, Each each) {
  for (std::uint32_t left = step.lanes; left != 0; left &= left - 1) each(std::countr_zero(left));
}

std::uint64_t address_of(Step& step, const Operation& operation, int lane) {
  const std::uint64_t base =
      operation.base < 0 ? 0 : step[operation.base][static_cast<std::size_t>(lane)];
  return base + operation.offset;
}

void load(Step& step, const Operation& operation) {
  for_lanes(step, [&](int lane) {
    const auto bytes = static_cast<std::size_t>(operation.bytes);
    const std::byte* memory = step.machine.at(operation.space, address_of(step, operation, lane),
                                              bytes * static_cast<std::size_t>(operation.count),
                                              operation.use, lane, step.warp, operation);
    for (int i = 0; i < operation.count; ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, memory + static_cast<std::size_t>(i) * bytes, bytes);
      if (operation.is_signed) {
        const auto unused = static_cast<unsigned>(64 - 8 * bytes);
        word = static_cast<std::uint64_t>(static_cast<std::int64_t>(word << unused) >> unused);
      }
      step[operation.to[i]][static_cast<std::size_t>(lane)] = word;
    }
  });
}

void store(Step& step, const Operation& operation) {
  for_lanes(step, [&](int lane) {
    const auto bytes = static_cast<std::size_t>(operation.bytes);
    std::byte* memory = step.machine.at(operation.space, address_of(step, operation, lane),
                                        bytes * static_cast<std::size_t>(operation.count),
                                        operation.use, lane, step.warp, operation);
    for (int i = 0; i < operation.count; ++i)
      std::memcpy(memory + static_cast<std::size_t>(i) * bytes,
                  &step[operation.from[i]][static_cast<std::size_t>(lane)], bytes);
  });
}

struct Cas {};
struct Exchange {};

template <class T, class Change>
void atomic(Step& step, const Operation& operation) {
  for_lanes(step, [&](int lane) {
    const auto l = static_cast<std::size_t>(lane);
    std::byte* memory = step.machine.at(operation.space, address_of(step, operation, lane),
                                        sizeof(T), operation.use, lane, step.warp, operation);
    T old;
    std::memcpy(&old, memory, sizeof old);
    const T x = value_of<T>(step[operation.from[0]][l]);
    T next;
    if constexpr (std::is_same_v<Change, Cas>)
      next = old == x ? value_of<T>(step[operation.from[1]][l]) : old;
    else if constexpr (std::is_same_v<Change, Exchange>)
      next = x;
    else
      next = Change()(old, x);
    std::memcpy(memory, &next, sizeof next);
    if (operation.to[0] >= 0) step[operation.to[0]][l] = word_of(old);
  });
}

struct Lesser {
  template <class T>
  T operator()(T a, T b) const {
    return std::min(a, b);
  }
};
struct Greater {
  template <class T>
  T operator()(T a, T b) const {
    return std::max(a, b);
  }
};

Run find_atomic(const std::string& what, const std::string& type) {
  using u32 = std::uint32_t;
  using u64 = std::uint64_t;
  using s32 = std::int32_t;
  using s64 = std::int64_t;
  const std::string key = what + "." + type;
  if (key == "add.u32" || key == "add.s32") return atomic<u32, std::plus<>>;
  if (key == "add.u64") return atomic<u64, std::plus<>>;
  if (key == "add.f32") return atomic<float, std::plus<>>;
  if (key == "add.f64") return atomic<double, std::plus<>>;
  if (key == "min.u32") return atomic<u32, Lesser>;
  if (key == "min.s32") return atomic<s32, Lesser>;
  if (key == "min.u64") return atomic<u64, Lesser>;
  if (key == "min.s64") return atomic<s64, Lesser>;
  if (key == "max.u32") return atomic<u32, Greater>;
  if (key == "max.s32") return atomic<s32, Greater>;
  if (key == "max.u64") return atomic<u64, Greater>;
  if (key == "max.s64") return atomic<s64, Greater>;
  if (key == "and.b32") return atomic<u32, std::bit_and<>>;
  if (key == "and.b64") return atomic<u64, std::bit_and<>>;
  if (key == "or.b32") return atomic<u32, std::bit_or<>>;
  if (key == "or.b64") return atomic<u64, std::bit_or<>>;
  if (key == "xor.b32") return atomic<u32, std::bit_xor<>>;
  if (key == "xor.b64") return atomic<u64, std::bit_xor<>>;
  if (key == "exch.b32") return atomic<u32, Exchange>;
  if (key == "exch.b64") return atomic<u64, Exchange>;
  if (key == "cas.b32") return atomic<u32, Cas>;
  if (key == "cas.b64") return atomic<u64, Cas>;
  return nullptr;
}

void nothing(Step&, const Operation&) {}

// mov.b64 {low, high}, x and mov.b64 x, {low, high}.
void unpack(Step& step, const Operation& operation) {
  for_lanes(step, [&](int lane) {
    const auto l = static_cast<std::size_t>(lane);
    const std::uint64_t word = step[operation.from[0]][l];
    for (int i = 0; i < operation.count; ++i)
      step[operation.to[i]][l] =
          word >> (8 * operation.bytes * i) & (~std::uint64_t{0} >> (64 - 8 * operation.bytes));
  });
}
void pack(Step& step, const Operation& operation) {
  for_lanes(step, [&](int lane) {
    const auto l = static_cast<std::size_t>(lane);
    const std::uint64_t part = ~std::uint64_t{0} >> (64 - 8 * operation.bytes);
    std::uint64_t word = 0;
    for (int i = 0; i < operation.count; ++i)
      word |= (step[operation.from[i]][l] & part) << (8 * operation.bytes * i);
    step[operation.to[0]][l] = word;
  });
}

void shift_address(Step& step, const Operation& operation) {  // cvta
  for_lanes(step, [&](int lane) {
    const auto l = static_cast<std::size_t>(lane);
    step[operation.to[0]][l] = step[operation.from[0]][l] + operation.offset;
  });
}

// shfl.sync: from a, b (lane or distance), c (width and end), mask.
enum class Shuffle { up, down, butterfly, index };
template <Shuffle kKind>
void shuffle(Step& step, const Operation& operation) {
  const Slot given = step[operation.from[0]];
  for_lanes(step, [&](int lane) {
    const auto l = static_cast<std::size_t>(lane);
    const int b = static_cast<int>(step[operation.from[1]][l] & 31);
    const auto c = static_cast<unsigned>(step[operation.from[2]][l]);
    const int end = static_cast<int>(c & 31);
    const int segment = static_cast<int>(c >> 8 & 31);
    const int first = lane & segment;
    const int last = first | (end & ~segment);
    int source = 0;
    bool inside = true;
    switch (kKind) {
      case Shuffle::up:
        source = lane - b;
        inside = source >= last;
        break;
      case Shuffle::down:
        source = lane + b;
        inside = source <= last;
        break;
      case Shuffle::butterfly:
        source = lane ^ b;
        inside = source <= last;
        break;
      case Shuffle::index:
        source = first | (b & ~segment);
        inside = source <= last;
        break;
    }
    if (!inside) source = lane;
    if ((step.lanes >> source & 1) == 0)
      step.machine.fault(
          step.warp, lane, operation,
          fmt::format("reads lane {}, which is not in the mask {:#010x}", source, step.lanes));
    step[operation.to[0]][l] = given[static_cast<std::size_t>(source)] & 0xffffffffu;
    if (operation.to[1] >= 0) step[operation.to[1]][l] = inside ? 1 : 0;
  });
}

enum class Vote { ballot, any, all, uniform };
template <Vote kKind>
void vote(Step& step, const Operation& operation) {
  std::uint32_t votes = 0;
  for_lanes(step, [&](int lane) {
    votes |= static_cast<std::uint32_t>(step[operation.from[0]][static_cast<std::size_t>(lane)] & 1)
             << lane;
  });
  std::uint64_t result = 0;
  switch (kKind) {
    case Vote::ballot:
      result = votes;
      break;
    case Vote::any:
      result = votes != 0 ? 1 : 0;
      break;
    case Vote::all:
      result = votes == step.lanes ? 1 : 0;
      break;
    case Vote::uniform:
      result = votes == 0 || votes == step.lanes ? 1 : 0;
      break;
  }
  for_lanes(step,
            [&](int lane) { step[operation.to[0]][static_cast<std::size_t>(lane)] = result; });
}

template <class T, class Combine>
void reduce(Step& step, const Operation& operation) {
  const Slot& given = step[operation.from[0]];
  T all = value_of<T>(given[static_cast<std::size_t>(std::countr_zero(step.lanes))]);
  bool first = true;
  for_lanes(step, [&](int lane) {
    if (!first) all = Combine()(all, value_of<T>(given[static_cast<std::size_t>(lane)]));
    first = false;
  });
  for_lanes(step, [&](int lane) {
    step[operation.to[0]][static_cast<std::size_t>(lane)] = word_of(all);
  });
}

Run find_reduction(const std::string& what, const std::string& type) {
  const std::string key = what + "." + type;
  if (key == "add.u32" || key == "add.s32") return reduce<std::uint32_t, std::plus<>>;
  if (key == "min.u32") return reduce<std::uint32_t, Lesser>;
  if (key == "min.s32") return reduce<std::int32_t, Lesser>;
  if (key == "max.u32") return reduce<std::uint32_t, Greater>;
  if (key == "max.s32") return reduce<std::int32_t, Greater>;
  if (key == "and.b32") return reduce<std::uint32_t, std::bit_and<>>;
  if (key == "or.b32") return reduce<std::uint32_t, std::bit_or<>>;
  if (key == "xor.b32") return reduce<std::uint32_t, std::bit_xor<>>;
  return nullptr;
}

template <class T>
void match_any(Step& step, const Operation& operation) {
  const Slot given = step[operation.from[0]];
  for_lanes(step, [&](int lane) {
    std::uint64_t same = 0;
    for_lanes(step, [&](int other) {
      if (value_of<T>(given[static_cast<std::size_t>(other)]) ==
          value_of<T>(given[static_cast<std::size_t>(lane)]))
        same |= std::uint64_t{1} << other;
    });
    step[operation.to[0]][static_cast<std::size_t>(lane)] = same;
  });
}

void sync_warp(Step& step, const Operation&) {
  // Only one of the whole warp orders memory for the race check: our kernels give full masks.
  if (step.lanes == 0xffffffffu) ++step.warp.epoch;
}

const std::set<std::string> kSpecials{
    "%tid.x",   "%tid.y",       "%tid.z",       "%ntid.x",      "%ntid.y",      "%ntid.z",
    "%ctaid.x", "%ctaid.y",     "%ctaid.z",     "%nctaid.x",    "%nctaid.y",    "%nctaid.z",
    "%laneid",  "%lanemask_lt", "%lanemask_le", "%lanemask_eq", "%lanemask_gt", "%lanemask_ge"};

class Maker {
 public:
  Maker(const Module& module, const Entry& entry, ModuleMemory& memory)
      : module_(module), entry_(entry) {
    program_.module = &module;
    program_.entry = &entry;
    program_.memory = &memory;
    program_.slots = entry.slots;
    std::size_t offset = 0;
    for (const ParameterDeclaration& parameter : entry.parameters) {
      const std::size_t alignment = std::min<std::size_t>(std::bit_floor(parameter.bytes), 16);
      offset = (offset + alignment - 1) / alignment * alignment;
      program_.parameter_offset.push_back(offset);
      program_.parameter_bytes.push_back(parameter.bytes);
      places_[parameter.name] = {Space::parameter, offset};
      offset += parameter.bytes;
    }
    // A module's shared variables count only where the entry names them.
    std::set<std::string> named;
    for (const Instruction& instruction : entry.instructions)
      for (const Operand& operand : instruction.operands) named.insert(operand.text);
    std::vector<const Variable*> variables;
    for (const Variable& variable : module.variables)
      if (variable.space != Space::shared || named.count(variable.name) != 0)
        variables.push_back(&variable);
    for (const Variable& variable : entry.variables) variables.push_back(&variable);
    for (const Variable* variable : variables) place(*variable, memory);
    const std::size_t dynamic = (program_.static_shared + program_.dynamic_alignment - 1) /
                                program_.dynamic_alignment * program_.dynamic_alignment;
    for (auto& [name, where] : places_)
      if (where.dynamic) where.address = dynamic;
  }

  Program make() {
    for (const Instruction& instruction : entry_.instructions) {
      instruction_ = &instruction;
      Operation operation;
      operation.instruction = &instruction;
      if (!instruction.guard.empty()) {
        operation.guard = reg(instruction.guard).slot;
        operation.guard_negated = instruction.guard_negated;
      }
      make(operation);
      program_.operations.push_back(operation);
    }
    return std::move(program_);
  }

 private:
  struct Place {
    Space space = Space::generic;
    std::uint64_t address = 0;
    bool dynamic = false;
  };

  [[noreturn]] void refuse(const std::string& why) const {
    throw PtxError(fmt::format("{}:{}: {}: '{}'", module_.path, instruction_->line, why,
                               instruction_->text()));
  }

  void place(const Variable& variable, ModuleMemory& memory) {
    Place where{variable.space, 0, variable.dynamic};
    const auto align = [&](std::size_t at) {
      return (at + variable.alignment - 1) / variable.alignment * variable.alignment;
    };
    switch (variable.space) {
      case Space::shared:
        if (variable.dynamic) {
          program_.dynamic_alignment = std::max(program_.dynamic_alignment, variable.alignment);
        } else {
          where.address = align(program_.static_shared);
          program_.static_shared = where.address + variable.bytes;
        }
        break;
      case Space::local:
        where.address = align(program_.local_bytes);
        program_.local_bytes = where.address + variable.bytes;
        break;
      default: {
        // On the host; vectors of the standard allocator are aligned to 16.
        auto [entry, is_new] = memory.bytes.try_emplace(variable.name);
        if (is_new) {
          entry->second.resize(variable.bytes);
          if (!variable.initial.empty())
            std::memcpy(entry->second.data(), variable.initial.data(), variable.initial.size());
        }
        where.address = reinterpret_cast<std::uint64_t>(entry->second.data());
      }
    }
    places_[variable.name] = where;
  }

  const Register& reg(const std::string& name) const {
    for (int scope = instruction_->scope; scope >= 0;
         scope = entry_.scope_parent[static_cast<std::size_t>(scope)]) {
      const auto found = entry_.registers.find(fmt::format("{}:{}", scope, name));
      if (found != entry_.registers.end()) return found->second;
    }
    refuse("no register " + name);
  }

  int constant(std::uint64_t value) {
    for (const auto& [slot, known] : program_.constants)
      if (known == value) return slot;
    program_.constants.emplace_back(program_.slots, value);
    return program_.slots++;
  }

  int special(const std::string& name) {
    for (const auto& [slot, known] : program_.specials)
      if (known == name) return slot;
    program_.specials.emplace_back(program_.slots, name);
    return program_.slots++;
  }

  // The slot of an operand that is read.
  int source(const Operand& operand) {
    switch (operand.kind) {
      case Operand::Kind::immediate:
        return constant(operand.value);
      case Operand::Kind::reg:
        if (kSpecials.count(operand.text) != 0) return special(operand.text);
        if (operand.text == "%warpsize" || operand.text == "WARP_SZ") return constant(kLanes);
        return reg(operand.text).slot;
      case Operand::Kind::name: {
        if (operand.text == "WARP_SZ") return constant(kLanes);
        const auto found = places_.find(operand.text);
        if (found != places_.end()) return constant(found->second.address + operand.value);
        return reg(operand.text).slot;  // inline assembly names registers without a %
      }
      default:
        refuse("an operand of this kind is not known");
    }
  }
  int destination(const Operand& operand) const {
    if (operand.kind != Operand::Kind::reg && operand.kind != Operand::Kind::name)
      refuse("the destination must be a register");
    if (operand.text == "_") refuse("a destination that is thrown away");
    return reg(operand.text).slot;
  }

  const std::vector<std::string>& opcode() const { return instruction_->opcode; }
  const std::vector<Operand>& operands() const { return instruction_->operands; }
  void need_operands(std::size_t count) const {
    if (operands().size() != count) refuse(fmt::format("{} operands are expected", count));
  }

  void make(Operation& operation) {
    const std::string& what = opcode()[0];
    if (what == "ld" || what == "st" || what == "ldu") return make_memory(operation);
    if (what == "atom" || what == "red") return make_atomic(operation);
    if (what == "bra") return make_branch(operation);
    if (what == "ret" || what == "exit") {
      if (opcode().size() != 1) refuse("not known");
      operation.flow = Operation::Flow::leave;
      return;
    }
    if (what == "bar" || what == "barrier") return make_barrier(operation);
    if (what == "shfl" || what == "vote" || what == "redux" || what == "match")
      return make_warp_function(operation);
    if (what == "membar" || what == "fence") {
      operation.run = nothing;
      return;
    }
    if (what == "cvta") return make_address_conversion(operation);
    if (what == "cvt") return make_conversion(operation);
    if (what == "mov" && operands().size() == 2 &&
        (operands()[0].kind == Operand::Kind::group || operands()[1].kind == Operand::Kind::group))
      return make_pack(operation);
    operation.run = find_arithmetic(fmt::format("{}", fmt::join(opcode(), ".")));
    if (operation.run == nullptr) refuse("an instruction that is not known");
    if (operands().size() < 2 || operands().size() > 6) refuse("the number of operands");
    operation.to[0] = destination(operands()[0]);
    for (std::size_t i = 1; i < operands().size(); ++i)
      operation.from[i - 1] = source(operands()[i]);
  }

  void make_address(Operation& operation, const Operand& operand) {
    if (operand.kind != Operand::Kind::address) refuse("an address is expected");
    const auto found = places_.find(operand.text);
    if (found != places_.end()) {
      operation.offset = found->second.address + operand.value;
      if (found->second.space != operation.space) refuse("a variable of another state space");
    } else {
      operation.base = reg(operand.text).slot;
      operation.offset = operand.value;
    }
  }

  // ld.global.nc.L1::no_allocate.v4.f32
  void make_memory(Operation& operation) {
    const bool loads = opcode()[0] == "ld";
    if (opcode()[0] == "ldu") refuse("not known");
    operation.run = loads ? load : store;
    operation.use = loads ? Use::read : Use::write;
    std::string type;
    for (std::size_t i = 1; i < opcode().size(); ++i) {
      const std::string& part = opcode()[i];
      static const std::set<std::string> kHints{"ca",
                                                "cg",
                                                "cs",
                                                "lu",
                                                "cv",
                                                "wb",
                                                "wt",
                                                "volatile",
                                                "relaxed",
                                                "gpu",
                                                "weak",
                                                "L1::no_allocate",
                                                "L1::evict_first",
                                                "L1::evict_last",
                                                "L1::evict_normal",
                                                "L2::128B",
                                                "L2::64B",
                                                "L2::256B"};
      if (part == "global")
        operation.space = Space::global;
      else if (part == "shared")
        operation.space = Space::shared;
      else if (part == "local")
        operation.space = Space::local;
      else if (part == "param")
        operation.space = Space::parameter;
      else if (part == "const")
        operation.space = Space::constant;
      else if (part == "nc" && loads)
        operation.use = Use::read_only_path;
      else if (part == "v2")
        operation.count = 2;
      else if (part == "v4")
        operation.count = 4;
      else if (i + 1 == opcode().size() && bytes_of(part) > 0)
        type = part;
      else if (kHints.count(part) == 0)
        refuse("the modifier ." + part + " is not known");
    }
    if (type.empty()) refuse("a type is expected");
    operation.bytes = bytes_of(type);
    operation.is_signed = type[0] == 's';
    need_operands(2);
    const Operand& values = operands()[loads ? 0 : 1];
    make_address(operation, operands()[loads ? 1 : 0]);
    std::vector<Operand> parts{values};
    if (values.kind == Operand::Kind::group) parts = values.parts;
    if (parts.size() != static_cast<std::size_t>(operation.count)) refuse("another vector length");
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (loads)
        operation.to[i] = destination(parts[i]);
      else
        operation.from[i] = source(parts[i]);
    }
    if (operation.space == Space::parameter && !loads) refuse("parameters are not written");
    if (operation.space == Space::constant && !loads) refuse("constants are not written");
  }

  void make_atomic(Operation& operation) {
    const bool returns = opcode()[0] == "atom";
    std::size_t i = 1;
    std::string what;
    for (; i + 1 < opcode().size(); ++i) {
      const std::string& part = opcode()[i];
      if (part == "global")
        operation.space = Space::global;
      else if (part == "shared")
        operation.space = Space::shared;
      else if (part == "relaxed" || part == "gpu" || part == "cta" || part == "sys")
        continue;
      else if (what.empty())
        what = part;
      else
        refuse("the modifier ." + part + " is not known");
    }
    operation.use = Use::atomic;
    operation.run = find_atomic(what, opcode().back());
    if (operation.run == nullptr) refuse("an atomic that is not known");
    operation.bytes = bytes_of(opcode().back());
    std::size_t at = 0;
    if (returns) operation.to[0] = destination(operands()[at++]);
    need_operands(at + 2 + (what == "cas" ? 1 : 0));
    make_address(operation, operands()[at++]);
    for (int from = 0; at < operands().size(); ++at, ++from)
      operation.from[from] = source(operands()[at]);
  }

  void make_branch(Operation& operation) {
    if (opcode().size() > 2 || (opcode().size() == 2 && opcode()[1] != "uni")) refuse("not known");
    need_operands(1);
    const auto found = entry_.labels.find(operands()[0].text);
    if (found == entry_.labels.end()) refuse("no such label");
    operation.flow = Operation::Flow::branch;
    operation.target = found->second;
  }

  void make_barrier(Operation& operation) {
    const std::string name = fmt::format("{}", fmt::join(opcode(), "."));
    if (name == "bar.warp.sync") {
      need_operands(1);
      operation.flow = Operation::Flow::warp;
      operation.run = sync_warp;
      operation.from[0] = source(operands()[0]);
      return;
    }
    if (name != "bar.sync" && name != "barrier.sync" && name != "bar.cta.sync")
      refuse("a barrier that is not known");
    need_operands(1);
    if (operands()[0].kind != Operand::Kind::immediate || operands()[0].value != 0)
      refuse("only barrier 0 is known");
    operation.flow = Operation::Flow::barrier;
  }

  void make_warp_function(Operation& operation) {
    operation.flow = Operation::Flow::warp;
    const auto& parts = opcode();
    const std::string name = fmt::format("{}", fmt::join(parts, "."));
    if (name == "shfl.sync.up.b32")
      operation.run = shuffle<Shuffle::up>;
    else if (name == "shfl.sync.down.b32")
      operation.run = shuffle<Shuffle::down>;
    else if (name == "shfl.sync.bfly.b32")
      operation.run = shuffle<Shuffle::butterfly>;
    else if (name == "shfl.sync.idx.b32")
      operation.run = shuffle<Shuffle::index>;
    else if (name == "vote.sync.ballot.b32")
      operation.run = vote<Vote::ballot>;
    else if (name == "vote.sync.any.pred")
      operation.run = vote<Vote::any>;
    else if (name == "vote.sync.all.pred")
      operation.run = vote<Vote::all>;
    else if (name == "vote.sync.uni.pred")
      operation.run = vote<Vote::uniform>;
    else if (name == "match.any.sync.b32")
      operation.run = match_any<std::uint32_t>;
    else if (name == "match.any.sync.b64")
      operation.run = match_any<std::uint64_t>;
    else if (parts[0] == "redux" && parts.size() == 4 && parts[1] == "sync")
      operation.run = find_reduction(parts[2], parts[3]);
    if (operation.run == nullptr) refuse("a warp function that is not known");
    need_operands(parts[0] == "shfl" ? 5 : 3);
    const Operand& to = operands()[0];
    if (to.kind == Operand::Kind::pair) {
      operation.to[0] = destination(to.parts[0]);
      operation.to[1] = destination(to.parts[1]);
    } else {
      operation.to[0] = destination(to);
    }
    for (std::size_t i = 1; i < operands().size(); ++i)
      operation.from[i - 1] = source(operands()[i]);
  }

  void make_address_conversion(Operation& operation) {
    need_operands(2);
    operation.to[0] = destination(operands()[0]);
    operation.from[0] = source(operands()[1]);
    operation.run = shift_address;
    const std::string name = fmt::format("{}", fmt::join(opcode(), "."));
    if (name == "cvta.to.global.u64" || name == "cvta.global.u64")
      operation.offset = 0;
    else if (name == "cvta.to.shared.u64")
      operation.offset = -kSharedWindow;
    else if (name == "cvta.shared.u64")
      operation.offset = kSharedWindow;
    else if (name == "cvta.to.local.u64")
      operation.offset = -kLocalWindow;
    else if (name == "cvta.local.u64")
      operation.offset = kLocalWindow;
    else
      refuse("not known");
  }

  // cvt.rni.ftz.sat.s32.f32
  void make_conversion(Operation& operation) {
    need_operands(2);
    if (opcode().size() < 3) refuse("not known");
    const std::string& to = opcode()[opcode().size() - 2];
    const std::string& from = opcode().back();
    for (std::size_t i = 1; i + 2 < opcode().size(); ++i) {
      const std::string& part = opcode()[i];
      if (part == "ftz")
        operation.flush = true;
      else if (part == "sat")
        operation.saturate = true;
      else if (part == "rn" || part == "rni")
        operation.rounding = Operation::Rounding::nearest;
      else if (part == "rz" || part == "rzi")
        operation.rounding = Operation::Rounding::zero;
      else if (part == "rm" || part == "rmi")
        operation.rounding = Operation::Rounding::down;
      else if (part == "rp" || part == "rpi")
        operation.rounding = Operation::Rounding::up;
      else
        refuse("the modifier ." + part + " is not known");
      if (part.size() == 3 && part[0] == 'r') operation.to_integral = true;
    }
    operation.run = find_conversion(to, from);
    if (operation.run == nullptr) refuse("a conversion that is not known");
    operation.to[0] = destination(operands()[0]);
    operation.from[0] = source(operands()[1]);
  }

  void make_pack(Operation& operation) {
    const bool packs = operands()[1].kind == Operand::Kind::group;
    const auto& parts = operands()[packs ? 1 : 0].parts;
    operation.count = static_cast<int>(parts.size());
    const int bytes = bytes_of(opcode().back());
    if (opcode().size() != 2 || bytes == 0 || (parts.size() != 2 && parts.size() != 4) ||
        bytes % operation.count != 0)
      refuse("not known");
    operation.bytes = bytes / operation.count;
    operation.run = packs ? pack : unpack;
    if (packs) {
      operation.to[0] = destination(operands()[0]);
      for (std::size_t i = 0; i < parts.size(); ++i) operation.from[i] = source(parts[i]);
    } else {
      operation.from[0] = source(operands()[1]);
      for (std::size_t i = 0; i < parts.size(); ++i) operation.to[i] = destination(parts[i]);
    }
  }

  const Module& module_;
  const Entry& entry_;
  const Instruction* instruction_ = nullptr;
  Program program_;
  std::map<std::string, Place> places_;
};

}  // namespace

Program make_program(const Module& module, const Entry& entry, ModuleMemory& memory) {
  return Maker(module, entry, memory).make();
}

}  // namespace ballot::ptx
