// A job's logs, as its workers wrote them: printed, and followed while the job runs.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace ballot {

struct LogView {
  std::string log_folder;
  std::string only;  // "worker-3", "coordinator"; empty: launch.log where there is one (all of
                     // them as they came), else each log after the other with its name before it
  int lines = -1;    // of each log, the last; -1: all
};

// Prints what there is. ConfigError, naming what there is, where `only` is not there.
void print_logs(const LogView& view);

// Prints what there is and what comes, until `over` and everything has been printed, or SIGINT.
// Returns false after SIGINT.
bool follow_logs(const LogView& view, const std::function<bool()>& over);

}  // namespace ballot
