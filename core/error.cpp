#include "core/error.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <new>

namespace ballot {

void throw_logic_error(const std::source_location& where, const std::string& message) {
  throw LogicError(fmt::format("{} ({}:{})", message, where.file_name(), where.line()));
}

Failure describe_failure(const std::exception& failure) {
  if (const auto* ours = dynamic_cast<const Error*>(&failure))
    return {ours->what(), ours->exit_code()};
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&failure))
    return {file->what(), ExitCode::data};
  if (dynamic_cast<const std::bad_alloc*>(&failure) != nullptr)
    return {"out of memory", ExitCode::configuration};
  return {fmt::format("internal error: {}", failure.what()), ExitCode::internal};
}

void throw_file_error(const char* what, const std::string& path) {
  const int code = errno;
  throw FileError("cannot {} {}: {}", what, path, std::strerror(code));
}

}  // namespace ballot
