// `ballot agent`: the far end of a process that a launcher starts on another machine, by ssh or
// srun.
//
// Both pass standard streams and little more: ssh passes no signal, no environment and nothing of a
// death by signal, and what runs outlives a connection that breaks. So the launcher writes to the
// agent's standard input
//
//   {"command": [...], "environment": {...}, "folder": "...", ...}     one line: what to run
//   signal 15                                                          lines: to be passed on
//   alive                                                              that the launcher still is
//
// and the agent runs the command as its child, with its own output, and ends its standard output
// with a line that says how that ended. When its input ends or falls silent (the network between
// them may be gone without anybody's saying so), or it is told to end itself (SIGTERM, SIGINT,
// SIGHUP), it asks the child to leave and, after the order's drain time, ends it: nothing stays
// behind. Secrets travel in the order, never on a command line, where `ps` would show them.
#pragma once

#include <csignal>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ballot {

struct AgentOrder {
  std::vector<std::string> command;                              // command[0]: a path
  std::vector<std::pair<std::string, std::string>> environment;  // added to the agent's own
  std::string folder;                                            // to run in; empty: where it is
  int leave_signal = SIGTERM;  // what asks the command to end in order
  double drain_seconds = 120;  // which it has then
  double silence_seconds = 0;  // without a word: the launcher is gone; 0: it says none
};

inline constexpr std::size_t kLongestOrder = 1 << 20;  // bytes

std::string encode_order(const AgentOrder& order);  // one line, with its end
// ConfigError that names the field where the line is no order.
AgentOrder decode_order(std::string_view line);

// The agent's last line: how its command ended, 0 to 255 as a shell would say it.
std::string encode_end(int exit_code);
// The exit code, if this line is (or ends with) one of those; `rest` is what stood before it.
std::optional<int> parse_end(std::string_view line, std::string_view& rest);

// Reads an order from `input` and carries it out; returns its exit code. Of the main thread, before
// others are started.
int run_agent(int input, int output);

}  // namespace ballot
