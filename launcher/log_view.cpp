#include "launcher/log_view.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>

#include "core/error.h"
#include "launcher/line_output.h"  // write_all
#include "launcher/signals.h"

namespace ballot {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code absent;
  for (const auto& entry : fs::directory_iterator(folder, absent))
    if (entry.path().extension() == ".log") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

// One log, read on from where it was read to.
class Tail {
 public:
  Tail(std::string path, std::string prefix) : path_(std::move(path)), prefix_(std::move(prefix)) {}

  // What came since, in whole lines (at the end also what has none).
  void print(int lines, bool to_the_end) {
    std::ifstream file(path_, std::ios::binary);
    if (!file) return;
    file.seekg(static_cast<std::streamoff>(at_));
    std::deque<std::string> last;
    std::string line;
    while (std::getline(file, line)) {
      if (file.eof() && !to_the_end) break;  // it has no line feed yet
      at_ += line.size() + (file.eof() ? 0 : 1);
      last.push_back(prefix_ + line + "\n");
      if (lines >= 0 && last.size() > static_cast<std::size_t>(lines)) last.pop_front();
      if (lines < 0 && last.size() >= 256) flush(last);
    }
    flush(last);
  }

 private:
  static void flush(std::deque<std::string>& lines) {
    std::string whole;
    for (const std::string& line : lines) whole += line;
    lines.clear();
    write_all(STDOUT_FILENO, whole);
  }
  const std::string path_, prefix_;
  std::uint64_t at_ = 0;
};

class View {
 public:
  explicit View(const LogView& view) : view_(view) {
    const std::vector<std::string> names = names_in(view.log_folder);
    if (view.only.empty() || std::find(names.begin(), names.end(), view.only) != names.end())
      return;
    std::string known;
    for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
    throw ConfigError("{} has no {}.log; {}", view.log_folder, view.only,
                      known.empty() ? "it has no log yet" : "expected one of " + known);
  }
  void print(bool to_the_end) {
    std::vector<std::string> names = names_in(view_.log_folder);
    const bool merged = std::find(names.begin(), names.end(), "launch") != names.end();
    if (!view_.only.empty())
      names = {view_.only};
    else if (merged)
      names = {"launch"};
    for (const std::string& name : names) {
      const bool fresh = !tails_.contains(name);
      auto [tail, made] = tails_.try_emplace(name, view_.log_folder + "/" + name + ".log",
                                             names.size() == 1 ? "" : name + " | ");
      tail->second.print(fresh ? view_.lines : -1, to_the_end);
    }
  }

 private:
  const LogView view_;
  std::map<std::string, Tail> tails_;
};

}  // namespace

void print_logs(const LogView& view) {
  View(view).print(true);
}

bool follow_logs(const LogView& view, const std::function<bool()>& over) {
  constexpr int kPauseMs = 200, kAskEvery = 5;  // asking may be a program's start
  View shown(view);
  Signals signals;
  for (int turn = 0;; ++turn) {
    const bool last = turn % kAskEvery == 0 && over();
    shown.print(last);
    if (last) return true;
    pollfd wait{signals.descriptor(), POLLIN, 0};
    ::poll(&wait, 1, kPauseMs);
    while (const int signal = signals.next())
      if (signal == SIGINT || signal == SIGTERM) return false;
  }
}

}  // namespace ballot
