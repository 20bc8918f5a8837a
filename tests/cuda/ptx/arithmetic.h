// What each arithmetic instruction does to a lane, by its full opcode ("mul.wide.u32").
#pragma once

#include <string>

#include "ptx/machine.h"  // Run

namespace ballot::ptx {

// Null for an opcode that is not known here. Operands are to[0], from[0], from[1], ...
Run find_arithmetic(const std::string& opcode);
// cvt from type `from` to type `to`; the operation says how it rounds.
Run find_conversion(const std::string& to, const std::string& from);

}  // namespace ballot::ptx
