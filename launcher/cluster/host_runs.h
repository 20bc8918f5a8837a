// One short command on every host at once, and what each said: for looking at hosts before a job.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "launcher/cluster/hosts.h"
#include "launcher/cluster/starter.h"

namespace ballot {

struct HostAnswer {
  std::string host;
  bool reached = false;        // its agent was heard of
  int exit_code = 0;           // of the command, where it was reached; else of what was to reach it
  bool timed_out = false;      // it was ended at the deadline
  double ended_at = 0;         // by the launcher's clock, seconds since the epoch
  std::string output, errors;  // at most kLongestAnswer bytes of each
};

inline constexpr std::size_t kLongestAnswer = 1 << 20;

// In the order of `hosts`. Those that have not ended at the deadline are ended. A host that does
// not answer is an answer too, not an exception. Of the main thread, before others are started.
std::vector<HostAnswer> run_on_hosts(const Starter& starter, const std::vector<Host>& hosts,
                                     const std::function<AgentOrder(std::size_t host)>& order_of,
                                     Deadline deadline);

}  // namespace ballot
