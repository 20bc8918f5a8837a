// What a coordinator shows to Prometheus: its status (runtime/coordinator/service_status.h), asked
// for anew at every scrape, as numbers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/coordinator/service_status.h"
#include "runtime/watching/metrics_endpoint.h"
#include "runtime/watching/scrape_target.h"

namespace ballot {

// A coordinator that does not lead speaks for nobody: it says so, and what it has turned away.
std::vector<MetricSample> metrics_of(const ServiceStatus& status);
// Of one whose own thread did not answer.
std::vector<MetricSample> metrics_without_status();

class CoordinatorWatch {
 public:
  // Calls back once, at any time, with null where there is no answer any more; on any thread.
  using AskStatus = std::function<void(std::function<void(const ServiceStatus*)>)>;

  // Listens when this returns (ConfigError); `ask` must outlive it. `name`: of the target file.
  // `patience`: for an answer; Prometheus itself waits ten seconds by default.
  CoordinatorWatch(const std::string& listen, AskStatus ask, const std::string& run_folder,
                   const std::string& name, const std::string& run,
                   Duration patience = std::chrono::seconds(3));

  const std::string& address() const { return endpoint_.address(); }

 private:
  MetricsEndpoint endpoint_;
  ScrapeTarget target_;  // goes before the endpoint
};

}  // namespace ballot
