// Turns the bytes of one stream into whole lines with a name before them, in a log file and on the
// terminal.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "core/clock.h"              // TimePoint
#include "launcher/child_process.h"  // Descriptor

namespace ballot {

// Cuts bytes into lines at '\n', "\r\n" and '\r'; a line longer than kLongestLine leaves in pieces.
// A line that ended in a bare '\r' is progress.
class LineCutter {
 public:
  static constexpr std::size_t kLongestLine = 64 * 1024;
  using Sink = std::function<void(std::string_view line, bool progress)>;
  explicit LineCutter(Sink sink) : sink_(std::move(sink)) {}
  void add(std::string_view bytes);
  void finish();  // what is left counts as a line

 private:
  void emit(bool progress);
  Sink sink_;
  std::string line_;
  bool carriage_return_ = false;  // the last byte was '\r': the next decides what it meant
};

// The log file of one worker. A log that cannot be written (full disk) is reported once and then
// left: the job is worth more than its log.
class LogFile {
 public:
  LogFile() = default;                 // of nothing: lines are only shown
  explicit LogFile(std::string path);  // appends; throws FileError
  void write_line(std::string_view line);

 private:
  std::string path_;
  Descriptor file_;
  bool failed_ = false;
};

// One stream of one worker: its lines to its log and, as "<name> | line", to `terminal` (a
// descriptor, -1 for none). `filter` sees every line first; it may shorten it, and one that it
// answers with false goes no further. A terminal that takes nothing for 5 s (Ctrl-S, a
// pager) misses lines until it does again, and is told how many: a launcher has others to look
// after. Of progress lines the first in a second is written, and the
// newest when something else follows or the stream ends.
class LineOutput {
 public:
  LineOutput(std::string name, LogFile& log, int terminal,
             std::function<bool(std::string_view&)> filter = {});
  LineOutput(const LineOutput&) = delete;
  LineOutput& operator=(const LineOutput&) = delete;
  void add(std::string_view bytes) { cutter_.add(bytes); }
  void finish();

 private:
  void take(std::string_view line, bool progress);
  void write(std::string_view line);
  bool terminal_takes();
  std::string name_;
  LogFile& log_;
  int terminal_;
  std::size_t missed_ = 0;  // lines that the terminal did not take
  std::function<bool(std::string_view&)> filter_;
  LineCutter cutter_;
  std::string held_progress_;
  TimePoint last_progress_{};
};

// All bytes to a descriptor in as few writes as it takes; false where it does not take them.
bool write_all(int descriptor, std::string_view bytes);

}  // namespace ballot
