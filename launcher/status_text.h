// What `ballot status` says of a run, as lines for people and as JSON: asked of a coordinator, or
// read from a run folder.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/coordinator/service_status.h"

namespace ballot {

// How far a run is: the last step of its record, of how many, and its pace.
struct RunProgress {
  std::int64_t step = 0;
  std::int64_t steps = 0;       // 0: not known
  double steps_per_second = 0;  // 0: not known
  std::optional<RecordedStep> recorded;

  std::optional<double> seconds_left() const;
};

// "step 120 of 1000" | "loss 2.3141" | "1234 tokens/s" | "3 min 20 s left" | "sends 123 kB a step,
// fp32 15.0 MB (122 times as much)" | "agreement 61.2 %, ties 21.0 %": of what is known.
std::vector<std::string> progress_parts(const RunProgress& progress);

RunProgress progress_of(const ServiceStatus& status);
std::vector<std::string> status_lines(const ServiceStatus& status);
std::string status_summary(const ServiceStatus& status);
bool has_ended(const ServiceStatus& status);
nlohmann::ordered_json status_json(const ServiceStatus& status);
nlohmann::ordered_json recorded_json(const std::optional<RecordedStep>& recorded);

}  // namespace ballot
