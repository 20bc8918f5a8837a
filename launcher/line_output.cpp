// Lines leave in one write each, so that those of two workers never mix.
#include "launcher/line_output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/error.h"  // throw_file_error
#include "core/log.h"    // log_warning

namespace ballot {
namespace {

constexpr std::chrono::milliseconds kTerminalPatience{5'000};

}  // namespace

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {  // a terminal that someone made non-blocking
      pollfd wait{descriptor, POLLOUT, 0};
      ::poll(&wait, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

void LineCutter::emit(bool progress) {
  sink_(line_, progress);
  line_.clear();
}

void LineCutter::add(std::string_view bytes) {
  for (const char byte : bytes) {
    if (carriage_return_) {
      carriage_return_ = false;
      emit(byte != '\n');
      if (byte == '\n') continue;
    }
    if (byte == '\n') {
      emit(false);
    } else if (byte == '\r') {
      carriage_return_ = true;
    } else {
      if (line_.size() == kLongestLine) emit(false);
      line_.push_back(byte);
    }
  }
}

void LineCutter::finish() {
  carriage_return_ = false;
  if (!line_.empty()) emit(false);
}

LogFile::LogFile(std::string path)
    : path_(std::move(path)),
      file_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (!file_.is_open()) throw_file_error("open", path_);
}

void LogFile::write_line(std::string_view line) {
  if (failed_ || !file_.is_open()) return;
  std::string whole(line);
  whole.push_back('\n');
  if (write_all(file_.number(), whole)) return;
  failed_ = true;
  log_warning("cannot write {}: {}; its log ends here", path_, std::strerror(errno));
}

LineOutput::LineOutput(std::string name, LogFile& log, int terminal,
                       std::function<bool(std::string_view&)> filter)
    : name_(std::move(name)),
      log_(log),
      terminal_(terminal),
      filter_(std::move(filter)),
      cutter_([this](std::string_view line, bool progress) { take(line, progress); }) {}

void LineOutput::take(std::string_view line, bool progress) {
  if (progress) {
    if (line.empty()) return;
    const TimePoint now = system_clock().now();
    if (now - last_progress_ < std::chrono::seconds(1)) {
      held_progress_ = line;
      return;
    }
    last_progress_ = now;
    held_progress_.clear();
  } else if (!held_progress_.empty()) {
    // A bar's own last state ends in '\n' and often repeats the one held.
    if (held_progress_ != line) write(held_progress_);
    held_progress_.clear();
  }
  write(line);
}

void LineOutput::write(std::string_view line) {
  if (filter_ && !filter_(line)) return;
  log_.write_line(line);
  if (terminal_ < 0) return;
  std::string whole = name_ + " | ";
  whole.append(line).push_back('\n');
  if (!terminal_takes()) {
    ++missed_;
    return;
  }
  if (missed_ > 0) {
    whole.insert(
        0, fmt::format("{} | ({} lines were not shown; they are in the log)\n", name_, missed_));
    missed_ = 0;
  }
  if (!write_all(terminal_, whole)) terminal_ = -1;  // the terminal went away; the log stays
}

bool LineOutput::terminal_takes() {
  pollfd wait{terminal_, POLLOUT, 0};
  const int limit_ms = missed_ > 0 ? 0 : static_cast<int>(kTerminalPatience.count());
  return ::poll(&wait, 1, limit_ms) != 0;  // an error shows when it is written to
}

void LineOutput::finish() {
  cutter_.finish();
  if (!held_progress_.empty()) write(held_progress_);
  held_progress_.clear();
}

}  // namespace ballot
