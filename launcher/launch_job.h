// A launcher's own record of its job, from its start to its end (cluster/job_record.h).
#pragma once

#include "launcher/cluster/job_record.h"
#include "launcher/launch_flags.h"

namespace ballot {

class LaunchedJob {
 public:
  LaunchedJob(const RunConfig& config, const LaunchFlags& flags);

  void require_free_folder() const;  // ConfigError where another job is in its folder
  // Puts the job into the list and goes on without the terminal; true in the parent, which says
  // where to look and ends.
  bool detach();
  void begin();  // into the list, with this process as its launcher
  bool has_begun() const { return begun_; }
  void end(int exit_code);

  JobRecord& record() { return record_; }

 private:
  JobRecord record_;
  bool begun_ = false, inside_ = false;
};

}  // namespace ballot
