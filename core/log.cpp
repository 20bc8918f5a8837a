#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace ballot {
namespace {

std::shared_ptr<spdlog::logger> logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_color_mt("ballot");
    made->set_pattern("%H:%M:%S.%e %^%l%$ %v");
    return made;
  }();
  return instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void set_log_level(LogLevel level) {
  logger()->set_level(to_spdlog(level));
}

void set_log_name(const std::string& name) {
  logger()->set_pattern(name.empty() ? "%H:%M:%S.%e %^%l%$ %v"
                                     : "%H:%M:%S.%e " + name + " %^%l%$ %v");
}

void log_line(LogLevel level, const std::string& text) {
  logger()->log(to_spdlog(level), text);
}

}  // namespace ballot
