// The log: one line per event on standard error, with the worker's name before it.
//
// Safe from any thread. Levels: debug, info, warning, error. Numbers per step go to metrics.jsonl,
// not here.
#pragma once

#include <fmt/format.h>

#include <string>

namespace ballot {

enum class LogLevel { debug, info, warning, error };

void set_log_level(LogLevel level);
void set_log_name(const std::string& name);  // e.g. "worker 3"; shown before each line
void log_line(LogLevel level, const std::string& text);

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace ballot
