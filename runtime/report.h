// One HTML page of one run or several side by side, drawn from metrics.jsonl: loss by tokens, time
// and step with what happened marked upon it, the time to reach a loss, bytes against fp32, time
// per stage, events, agreement and ties. Inline SVG, no script, nothing from elsewhere.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace ballot {

inline constexpr std::size_t kMostRuns = 8;  // of a page: as many as it has colours

// `run_folders`: 1 to kMostRuns run directories (else ConfigError). Writes `path` (default: <first
// run>/report.html) and returns it. A damaged line in metrics.jsonl is DataError with its number; a
// torn last line (a run in progress or killed) is left out.
std::string write_report(const std::vector<std::string>& run_folders, const std::string& path = "");

}  // namespace ballot
