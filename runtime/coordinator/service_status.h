// What `ballot status` shows: the coordinator's own view, and its service's.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/protocol/coordinator_core.h"

namespace ballot {

// A term that began while this coordinator watched, and why.
struct TermChange {
  std::int64_t term = 0;
  std::string reason;
  double seconds_ago = 0;
};

struct ServiceStatus {
  CoordinatorStatus coordinator;
  std::string run, version, store;
  double seconds_up = 0;
  double commit_rate = 0;                // steps per second of the commit, over the last minute
  std::map<std::int32_t, double> rates;  // by worker: of the step it holds
  std::optional<RecordedStep> recorded;  // the last that was told of, by whoever writes the record
  std::vector<TermChange> changes;       // the last few, the oldest first
  // Calls and messages turned away since the start, by why.
  std::map<std::string, std::int64_t> refusals;
};

std::string encode(const ServiceStatus& status);
// TransportError, as runtime/coordinator/convert.h says.
ServiceStatus decode_status(std::span<const std::byte> bytes);

}  // namespace ballot
