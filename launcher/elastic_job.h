// An elastic run on this machine: a coordinator and workers, each started again when it dies.
//
// Processes are children of this one and end with it. Every line goes to LOG_FOLDER/<name>.log and
// to the terminal as "<name> | line". SIGINT and SIGTERM ask the workers to leave in order, which
// they have `drain_deadline` for; a second signal ends them at once.
#pragma once

#include <chrono>
#include <csignal>
#include <string>
#include <vector>

namespace ballot {

struct ElasticJob {
  std::vector<std::string> coordinator;           // its command
  std::vector<std::vector<std::string>> workers;  // theirs, by number
  std::string log_folder;                         // made if it does not exist
  int restarts = 0;                               // of all processes together
  bool forward_output = true;
  int leave_signal = SIGTERM;  // asks a worker to leave in order
  std::chrono::milliseconds drain_deadline{120'000};
};

// Blocks until every worker has ended well (0; one that was sent away, ExitCode::sent_away, is not
// started again and ends nothing, but if all of them were), or one has failed in a way that
// starting it again cannot mend or once too often (its exit code; 128 + the signal), or the job was
// asked to stop (ExitCode::retry where the workers left in order). Call it from the main thread,
// before others are started.
int run_elastic_job(const ElasticJob& job);

}  // namespace ballot
