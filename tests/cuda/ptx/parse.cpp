// The PTX parser: tokens, then statements that end in a semicolon.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <charconv>
#include <cstdlib>

#include "ptx/module.h"

namespace ballot::ptx {
namespace {

struct Token {
  std::string text;
  int line = 0;
};

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%';
}

// Words keep their dots ("ld.global.v4.f32", "%tid.x", ".reg"); all else is one character a token.
std::vector<Token> tokens_of(const std::string& text) {
  std::vector<Token> tokens;
  int line = 1;
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      ++i;
    } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      ++i;
    } else if (text.compare(i, 2, "//") == 0) {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (text.compare(i, 2, "/*") == 0) {
      const std::size_t end = text.find("*/", i);
      if (end == std::string::npos)
        throw PtxError(fmt::format("line {}: comment without end", line));
      line += static_cast<int>(std::count(text.begin() + static_cast<std::ptrdiff_t>(i),
                                          text.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
      i = end + 2;
    } else if (c == '"') {
      const std::size_t end = text.find('"', i + 1);
      if (end == std::string::npos)
        throw PtxError(fmt::format("line {}: string without end", line));
      tokens.push_back({text.substr(i, end + 1 - i), line});
      i = end + 1;
    } else if (is_word(c) || (c == '.' && i + 1 < text.size() && is_word(text[i + 1]))) {
      std::size_t end = i + 1;
      while (end < text.size() &&
             (is_word(text[end]) || text[end] == '.' || text.compare(end, 2, "::") == 0 ||
              (text[end] == ':' && text[end - 1] == ':')))
        ++end;
      tokens.push_back({text.substr(i, end - i), line});
      i = end;
    } else {
      tokens.push_back({std::string(1, c), line});
      ++i;
    }
  }
  return tokens;
}

int width_of(const std::string& type, int line) {
  if (type == "pred") return 0;
  if (type == "b8" || type == "u8" || type == "s8") return 1;
  if (type == "b16" || type == "u16" || type == "s16" || type == "f16") return 2;
  if (type == "b32" || type == "u32" || type == "s32" || type == "f32") return 4;
  if (type == "b64" || type == "u64" || type == "s64" || type == "f64") return 8;
  throw PtxError(fmt::format("line {}: unknown type .{}", line, type));
}

class Parser {
 public:
  Parser(const std::string& text, std::string path) : tokens_(tokens_of(text)) {
    module_.path = std::move(path);
  }

  Module parse() {
    while (at_ < tokens_.size()) parse_directive();
    return std::move(module_);
  }

 private:
  const Token& peek() const {
    if (at_ >= tokens_.size()) throw PtxError("the file ends in the middle");
    return tokens_[at_];
  }
  std::string take() {
    const std::string text = peek().text;
    ++at_;
    return text;
  }
  bool accept(const std::string& text) {
    if (at_ >= tokens_.size() || tokens_[at_].text != text) return false;
    ++at_;
    return true;
  }
  void expect(const std::string& text) {
    if (!accept(text)) unknown(fmt::format("expected '{}'", text));
  }
  [[noreturn]] void unknown(const std::string& what) const {
    const std::string found = at_ < tokens_.size() ? tokens_[at_].text : "the end";
    const int line = at_ < tokens_.size() ? tokens_[at_].line : 0;
    throw PtxError(fmt::format("{}:{}: {}, found '{}'", module_.path, line, what, found));
  }
  long long number() {
    const bool negative = accept("-");
    const std::string text = take();
    char* end = nullptr;
    const unsigned long long value = std::strtoull(text.c_str(), &end, 0);
    if (*end != 0 && *end != 'U') {
      --at_;
      unknown("expected a number");
    }
    return negative ? -static_cast<long long>(value) : static_cast<long long>(value);
  }

  void parse_directive() {
    const std::string word = take();
    if (word == ".version") {
      take();
    } else if (word == ".target") {
      module_.target = take();
      while (accept(",")) take();
    } else if (word == ".address_size") {
      if (number() != 64) unknown("addresses of 64 bits are expected");
    } else if (word == ".file") {
      const int index = static_cast<int>(number());
      std::string name = take();
      module_.source_files[index] = name.substr(1, name.size() - 2);
      while (accept(",")) number();
    } else if (word == ".section") {
      skip_section();
    } else if (word == ".visible" || word == ".weak" || word == ".extern") {
      const bool is_extern = word == ".extern";
      if (peek().text == ".entry" && !is_extern) {
        take();
        parse_entry();
      } else {
        module_.variables.push_back(parse_variable(take(), is_extern));
      }
    } else if (word == ".entry") {
      parse_entry();
    } else if (word == ".global" || word == ".const" || word == ".shared") {
      module_.variables.push_back(parse_variable(word, false));
    } else {
      --at_;
      unknown("a directive we do not know");
    }
  }

  void skip_section() {  // debug information
    take();
    expect("{");
    for (int depth = 1; depth > 0;) {
      const std::string text = take();
      if (text == "{") ++depth;
      if (text == "}") --depth;
    }
  }

  // .shared .align 4 .b8 name[128]; .global .align 4 .b8 name[24] = {1, 2, ...};
  Variable parse_variable(const std::string& space, bool is_extern) {
    Variable variable;
    if (space == ".shared")
      variable.space = Space::shared;
    else if (space == ".local")
      variable.space = Space::local;
    else if (space == ".global")
      variable.space = Space::global;
    else if (space == ".const")
      variable.space = Space::constant;
    else
      unknown("a state space we do not know");
    if (accept(".align")) variable.alignment = static_cast<std::size_t>(number());
    std::string type = take();
    const int width = width_of(type.substr(1), peek().line);
    variable.alignment = std::max<std::size_t>(variable.alignment, static_cast<std::size_t>(width));
    variable.name = take();
    std::size_t count = 1;
    if (accept("[")) {
      if (accept("]")) {
        variable.dynamic = is_extern;
        if (!is_extern) unknown("an array without a size");
        count = 0;
      } else {
        count = static_cast<std::size_t>(number());
        expect("]");
      }
    }
    variable.bytes = count * static_cast<std::size_t>(width);
    if (is_extern && !variable.dynamic) unknown("an external variable that is not dynamic shared");
    if (accept("=")) {
      variable.initial.assign(variable.bytes, 0);
      std::size_t at = 0;
      const bool braces = accept("{");
      do {
        const auto value = static_cast<std::uint64_t>(number());
        for (int b = 0; b < width; ++b) {
          if (at >= variable.bytes) unknown("too many initial values");
          variable.initial[at++] = static_cast<std::uint8_t>(value >> (8 * b));
        }
      } while (accept(","));
      if (braces) expect("}");
    }
    expect(";");
    return variable;
  }

  void parse_entry() {
    Entry entry;
    entry.name = take();
    expect("(");
    while (!accept(")")) {
      expect(".param");
      ParameterDeclaration parameter;
      if (accept(".align")) number();
      const int width = width_of(take().substr(1), peek().line);
      if (peek().text == ".ptr") {
        take();
        while (peek().text[0] == '.') {
          if (take() == ".align") number();
        }
      }
      parameter.name = take();
      parameter.bytes = static_cast<std::size_t>(width);
      if (accept("[")) {
        parameter.bytes *= static_cast<std::size_t>(number());
        expect("]");
      }
      entry.parameters.push_back(parameter);
      accept(",");
    }
    while (!accept("{")) {
      const std::string word = take();
      if (word == ".maxntid" || word == ".reqntid") {
        entry.max_threads = static_cast<unsigned>(number());
        while (accept(",")) entry.max_threads *= static_cast<unsigned>(number());
      } else if (word == ".minnctapersm") {
        number();
      } else {
        --at_;
        unknown("a performance directive we do not know");
      }
    }
    entry_ = &entry;
    entry.scope_parent = {-1};
    int scope = 0;
    while (true) {
      if (accept("{")) {
        entry.scope_parent.push_back(scope);
        scope = static_cast<int>(entry.scope_parent.size()) - 1;
      } else if (accept("}")) {
        scope = entry.scope_parent[static_cast<std::size_t>(scope)];
        if (scope < 0) break;
      } else {
        parse_statement(scope);
      }
    }
    entry_ = nullptr;
    if (!module_.entries.emplace(entry.name, entry).second) unknown("two entries of one name");
  }

  void parse_statement(int scope) {
    const std::string& word = peek().text;
    if (word == ".reg") {
      take();
      parse_registers(scope);
    } else if (word == ".local" || word == ".shared") {
      const std::string space = take();
      entry_->variables.push_back(parse_variable(space, false));
    } else if (word == ".loc") {
      take();
      source_file_ = static_cast<int>(number());
      source_line_ = static_cast<int>(number());
      number();
      while (accept(",")) {  // function_name ..., inlined_at file line column
        if (take() == "function_name") {
          take();
          if (accept("+")) number();
        } else {
          // The outermost place is the one a reader looks for.
          source_file_ = static_cast<int>(number());
          source_line_ = static_cast<int>(number());
          number();
        }
      }
    } else if (word == ".pragma") {
      take();
      take();
      expect(";");
    } else if (at_ + 1 < tokens_.size() && tokens_[at_ + 1].text == ":") {
      const std::string label = take();
      take();
      if (!entry_->labels.emplace(label, static_cast<int>(entry_->instructions.size())).second)
        unknown("two labels of one name");
    } else if (word[0] == '.') {
      unknown("a statement we do not know");
    } else {
      parse_instruction(scope);
    }
  }

  // .reg .pred %p<29>;  .reg .b32 %SP;  .reg .b32 a, b;
  void parse_registers(int scope) {
    const int line = peek().line;
    const std::string type = take().substr(1);
    const int width = width_of(type, line);
    const auto add = [&](const std::string& name) {
      entry_->registers[fmt::format("{}:{}", scope, name)] = {type, width, entry_->slots++};
    };
    do {
      const std::string name = take();
      if (accept("<")) {
        const long long count = number();
        for (long long i = 0; i < count; ++i) add(name + std::to_string(i));
        expect(">");
      } else {
        add(name);
      }
    } while (accept(","));
    expect(";");
  }

  void parse_instruction(int scope) {
    Instruction instruction;
    instruction.line = peek().line;
    instruction.source_file = source_file_;
    instruction.source_line = source_line_;
    instruction.scope = scope;
    if (accept("@")) {
      instruction.guard_negated = accept("!");
      instruction.guard = take();
    }
    const std::string word = take();
    for (std::size_t begin = 0; begin <= word.size();) {
      const std::size_t end = std::min(word.find('.', begin), word.size());
      instruction.opcode.push_back(word.substr(begin, end - begin));
      begin = end + 1;
    }
    while (!accept(";")) {
      Operand operand = parse_operand();
      if (accept("|")) {
        Operand pair;
        pair.kind = Operand::Kind::pair;
        pair.parts = {operand, parse_operand()};
        operand = pair;
      }
      instruction.operands.push_back(operand);
      if (peek().text != ";") expect(",");
    }
    entry_->instructions.push_back(instruction);
  }

  Operand parse_operand() {
    Operand operand;
    if (accept("{")) {
      operand.kind = Operand::Kind::group;
      do operand.parts.push_back(parse_operand());
      while (accept(","));
      expect("}");
      return operand;
    }
    if (accept("[")) {
      operand.kind = Operand::Kind::address;
      operand.text = take();
      if (accept("+")) operand.value = static_cast<std::uint64_t>(number());
      expect("]");
      return operand;
    }
    if (accept("!")) unknown("a negated operand");
    const std::string& text = peek().text;
    if (text == "-" || std::isdigit(static_cast<unsigned char>(text[0])) != 0) {
      operand.kind = Operand::Kind::immediate;
      operand.value = immediate();
      return operand;
    }
    operand.kind = text[0] == '%' ? Operand::Kind::reg : Operand::Kind::name;
    operand.text = take();
    if (operand.kind == Operand::Kind::name && accept("+"))
      operand.value = static_cast<std::uint64_t>(number());
    return operand;
  }

  // 12, -5, 0f3F800000 (bits of an f32), 0d3FF0000000000000 (of an f64)
  std::uint64_t immediate() {
    const std::string& text = peek().text;
    if (text.size() > 2 && text[0] == '0' &&
        (text[1] == 'f' || text[1] == 'd' || text[1] == 'F' || text[1] == 'D')) {
      const bool is_double = text[1] == 'd' || text[1] == 'D';
      const std::string digits = take().substr(2);
      if (digits.size() != (is_double ? 16u : 8u)) unknown("a float of another length");
      return std::strtoull(digits.c_str(), nullptr, 16);
    }
    return static_cast<std::uint64_t>(number());
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  Module module_;
  Entry* entry_ = nullptr;
  int source_file_ = 0;
  int source_line_ = 0;
};

std::string text_of(const Operand& operand) {
  std::vector<std::string> parts;
  for (const Operand& part : operand.parts) parts.push_back(text_of(part));
  switch (operand.kind) {
    case Operand::Kind::immediate:
      return std::to_string(static_cast<std::int64_t>(operand.value));
    case Operand::Kind::address:
      return fmt::format("[{}+{}]", operand.text, static_cast<std::int64_t>(operand.value));
    case Operand::Kind::group:
      return fmt::format("{{{}}}", fmt::join(parts, ", "));
    case Operand::Kind::pair:
      return fmt::format("{}", fmt::join(parts, "|"));
    default:
      return operand.text;
  }
}

}  // namespace

std::string Instruction::text() const {
  std::vector<std::string> parts;
  for (const Operand& operand : operands) parts.push_back(text_of(operand));
  return fmt::format("{}{}{}{} {}", guard.empty() ? "" : "@", guard_negated ? "!" : "",
                     guard.empty() ? "" : guard + " ", fmt::join(opcode, "."),
                     fmt::join(parts, ", "));
}

Module parse_module(const std::string& text, const std::string& path) {
  return Parser(text, path).parse();
}

}  // namespace ballot::ptx
