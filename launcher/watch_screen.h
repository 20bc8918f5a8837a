// Shows lines that change: in place on a terminal, else line by line.
//
// On a terminal it has the whole screen until `q`, Ctrl-C or a signal ends it, and gives the
// terminal back as it was, with the last lines on it. Lines are cut at its width; what is in them
// that a terminal would obey is replaced.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace ballot {

struct WatchFrame {
  std::vector<std::string> lines;
  std::string summary;  // all in one line, where there is no terminal
  bool ended = false;   // nothing will change any more
};

// Asked every `interval`, on a thread of its own; it may take its time. A WorldError that a retry
// can help is shown and it is asked again; any other ends the watch. Returns 0 when the reader has
// ended it, or, without a terminal, when the frame has `ended`.
int watch(std::chrono::duration<double> interval, const std::function<WatchFrame()>& ask);

// The first `columns` characters, without what a terminal obeys. Bytes that are no UTF-8 become
// '?'.
std::string fit_line(std::string_view text, std::size_t columns);

// As many of the lines as there are rows; where not all find room the last row says how many more.
std::vector<std::string> fit_screen(const std::vector<std::string>& lines, std::size_t rows,
                                    std::size_t columns);

}  // namespace ballot
