#include "core/error.h"

#include <cerrno>
#include <cstring>

namespace ballot {

void throw_logic_error(const std::source_location& where, const std::string& message) {
  throw LogicError(fmt::format("{} ({}:{})", message, where.file_name(), where.line()));
}

void throw_file_error(const char* what, const std::string& path) {
  const int code = errno;
  throw FileError("cannot {} {}: {}", what, path, std::strerror(code));
}

}  // namespace ballot
