// One HTML page of a run, drawn from metrics.jsonl: loss curve, bytes per step against fp32, time
// per stage, agreement and ties. Inline SVG, no script, nothing from elsewhere.
#pragma once

#include <string>
#include <vector>

namespace ballot {

// `run_folders`: one or more run directories; the first is the page's main run, the others are
// drawn beside it in the loss curve and the table. Writes `path` (default: <first run>/report.html)
// and returns it. A damaged line in metrics.jsonl is DataError with its number; a torn last line (a
// run in progress or killed) is left out.
std::string write_report(const std::vector<std::string>& run_folders, const std::string& path = "");

}  // namespace ballot
