// How Prometheus finds a process: RUN/prometheus/NAME.json, a target file of its file_sd_configs.
//
// Written whole or not at all; gone when the process ends in order. A killed one leaves it, and
// Prometheus shows that target as down until the process is back.
#pragma once

#include <map>
#include <string>

namespace ballot {

class ScrapeTarget {
 public:
  // FileError where it cannot be written. `labels` are of all that is scraped there.
  ScrapeTarget(const std::string& run_folder, const std::string& name, const std::string& address,
               const std::map<std::string, std::string>& labels);
  ScrapeTarget(const ScrapeTarget&) = delete;
  ~ScrapeTarget();

 private:
  std::string path_;
};

// Those of workers from number `workers` on, that a run with more of them left.
void remove_scrape_targets_from(const std::string& run_folder, int workers);

}  // namespace ballot
