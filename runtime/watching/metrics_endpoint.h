// A Prometheus endpoint: answers GET /metrics with what a source knows, in Prometheus' text format.
//
// Plain HTTP without authentication, on two threads of its own: for loopback addresses and networks
// that one trusts (docs/watching.md).
#pragma once

#include <memory>
#include <string>

#include "runtime/watching/metric_values.h"

namespace ballot {

class MetricsEndpoint {
 public:
  // Listens when this returns. ConfigError, naming `what` asked for it, for an address that is none
  // or cannot be listened at.
  MetricsEndpoint(const std::string& listen, const std::string& what,
                  std::shared_ptr<const MetricSource> source);
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  ~MetricsEndpoint();  // waits for scrapes under way

  // Where it listens: "127.0.0.1:43127".
  const std::string& address() const { return address_; }
  // The same as others reach it: an endpoint on all interfaces is known by the machine's name.
  std::string reachable_address() const;

 private:
  struct Server;  // prometheus-cpp's
  std::string address_;
  std::unique_ptr<Server> server_;
};

}  // namespace ballot
