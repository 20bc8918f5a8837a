// A job of several workers that mpirun starts, on this machine or on hosts: mpirun, its workers'
// output by name, signals passed on, one clear end.
//
// Every line a worker writes goes to <log_folder>/worker-R.log and, with forward_output, to the
// terminal as "worker R | line"; mpirun's own lines go to mpirun.log and "mpirun | line". Lines are
// never mixed. A carriage return ends a line as well (progress); of those at most one a second is
// kept per worker and stream. Logs are appended to.
//
// Each worker has two pipes of its own to the launcher: mpirun's --tag-output loses text when short
// lines come in bursts (Open MPI 4.1.4: two ranks of `seq 20000` lose 4 lines of 10). A worker's
// output is therefore no terminal: what it writes through a buffer it must flush.
//
// Workers on other machines write their logs themselves, into the folder that all machines see, and
// the launcher reads them there. Of their ends it knows what mpirun says.
//
// SIGINT and SIGTERM are passed on to mpirun, which gives the workers SIGTERM and, one second
// later, SIGKILL. Workers that need longer name a drain_signal: the first signal then reaches them
// as that one and they have drain_deadline to end by themselves; a second signal, or the deadline,
// ends them as above. A second SIGINT within 10 seconds kills at once. A job that does not end
// within end_deadline after a worker's death or a signal is killed. The job ends with the launcher,
// however that ends.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "launcher/mpirun.h"  // MpiHosts

namespace ballot {

struct LocalJob {
  MpiHosts hosts;  // none: this machine
  std::vector<std::string>
      command;  // of each worker, e.g. {"build/bin/ballot", "train", "run.toml"}
  int workers = 1;
  int threads_per_worker = 1;
  std::string log_folder;  // made if it does not exist
  bool forward_output = true;
  int drain_signal = 0;  // SIGUSR1 or SIGUSR2, which mpirun passes on to the workers; 0: none
  std::chrono::milliseconds drain_deadline{120'000};
  std::chrono::milliseconds end_deadline{20'000};
};

struct LostRank {
  int rank;
  int signal;
};

struct JobResult {
  // 0, a worker's own (also after a drain), ExitCode::retry where a host was lost, or 128 + the
  // signal that ended a worker or, asked for, the job.
  int exit_code;
  std::optional<LostRank> lost;  // the worker that a signal ended, unless the job was asked to stop
  bool asked_to_stop = false;    // by SIGINT or SIGTERM to this process
};

// Blocks until the job has ended; how it ended is the caller's to say. Throws Unavailable when
// mpirun is not installed. Handles SIGINT, SIGTERM and SIGCHLD while it runs and restores what was
// there: call it from the main thread, before others are started.
JobResult run_local_job(const LocalJob& job);

// What is run where the job's workers are on other machines: mpirun, and of each worker a shell
// that makes its log its output.
std::vector<std::string> mpirun_on_hosts(const LocalJob& job);

// What mpirun says of a rank that a signal ended, or nothing if the line says something else.
std::optional<LostRank> parse_lost_rank(const std::string& line);

}  // namespace ballot
