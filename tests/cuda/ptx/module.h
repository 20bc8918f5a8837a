// A PTX file as parsed: its entries, their parameters, variables and instructions, still in words.
//
// What the parser does not know it refuses (PtxError): nothing is skipped but debug sections.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace ballot::ptx {

// The file has something we do not know; says the line.
class PtxError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Space : std::uint8_t { generic, parameter, global, shared, local, constant };

// .shared, .local, .global or .const memory with a name.
struct Variable {
  std::string name;
  Space space = Space::shared;
  std::size_t alignment = 1;
  std::size_t bytes = 0;
  bool dynamic = false;  // .extern .shared name[]: as large as the launch says
  std::vector<std::uint8_t> initial;
};

struct ParameterDeclaration {
  std::string name;
  std::size_t bytes = 0;
};

struct Register {
  std::string type;  // "pred", "b32", "f64", ...
  int width = 0;     // bytes; 0 for a predicate
  int slot = 0;
};

struct Operand {
  enum class Kind : std::uint8_t { reg, immediate, name, address, group, pair };
  Kind kind = Kind::reg;
  std::string text;            // a register, special register, label, variable
  std::uint64_t value = 0;     // immediate; address: the offset
  std::vector<Operand> parts;  // {a, b}: group; d|p: pair
};

struct Instruction {
  std::string guard;  // a predicate register, or empty
  bool guard_negated = false;
  std::vector<std::string> opcode;  // "ld", "global", "v4", "f32"
  std::vector<Operand> operands;
  int line = 0;         // in the PTX file
  int source_file = 0;  // .loc
  int source_line = 0;
  int scope = 0;  // registers declared inside braces
  std::string text() const;
};

struct Entry {
  std::string name;
  std::vector<ParameterDeclaration> parameters;
  unsigned max_threads = 0;  // .maxntid, 0: not said
  std::vector<Variable> variables;
  std::map<std::string, Register> registers;  // "scope:name"
  int slots = 0;
  std::vector<int> scope_parent;
  std::vector<Instruction> instructions;
  std::map<std::string, int> labels;  // the instruction that follows
};

struct Module {
  std::string path;
  std::string target;
  std::vector<Variable> variables;
  std::map<int, std::string> source_files;
  std::map<std::string, Entry> entries;
};

Module parse_module(const std::string& text, const std::string& path);

}  // namespace ballot::ptx
