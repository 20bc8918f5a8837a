// Whether the hosts of a job reach each other at the addresses that it will use: each listens, each
// dials all others.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"

namespace ballot {

struct HostAddress {
  std::string address;  // IPv4, dotted
  int port = 0;
  friend bool operator==(const HostAddress&, const HostAddress&) = default;
};

struct ReachReport {
  // By peer: how it went, "" where it answered; of itself always "".
  std::vector<std::string> problems;
  std::vector<double> milliseconds;  // until the peer answered, from the first byte sent; 0: itself
};

// Listens at peers[self], dials all others until they answer or the deadline passes, and goes on
// answering until everybody who can has been answered or the deadline passes. TransportError where
// it cannot listen.
ReachReport try_to_reach(const std::vector<HostAddress>& peers, std::size_t self,
                         Deadline deadline);

std::string encode_report(const ReachReport& report);  // one line of JSON
// DataError; `peers`: how many it must be about.
ReachReport decode_report(std::string_view line, std::size_t peers);

// "10.0.0.1:4711". ConfigError that names `flag`.
HostAddress parse_host_address(const std::string& flag, const std::string& text);

}  // namespace ballot
