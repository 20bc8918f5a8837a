// How a run stands, from the end of its metrics.jsonl: for a job without a coordinator, and for one
// that is over.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launcher/status_text.h"

namespace ballot {

struct RunStatus {
  std::string folder, model, rule, workers, backend;
  RunProgress progress;
  bool ended = false;
  double seconds_since_line = 0;  // since the last line was written
  std::vector<double> agreement;  // by voter in the last step; NaN: it abstained
  std::optional<std::int64_t> evaluated_at;
  double held_out_loss = 0;         // then
  std::vector<std::string> events;  // the last few: "step 40: alarm: ..."
};

// Reads no more than the last megabyte and the first line. FileError where there is no record;
// lines that cannot be read (the last, that is being written) are left out.
RunStatus read_run_status(const std::string& folder);

std::vector<std::string> status_lines(const RunStatus& status);
std::string status_summary(const RunStatus& status);
nlohmann::ordered_json status_json(const RunStatus& status);

}  // namespace ballot
