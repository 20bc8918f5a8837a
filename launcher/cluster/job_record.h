// What is remembered of a job: RUN/job.json beside the run, and its name in the user's own list of
// jobs, so that `ballot jobs`, `logs` and `stop` find it from anywhere on this account.
//
// The list is $BALLOT_JOBS, or $XDG_STATE_HOME/ballot/jobs, or ~/.local/state/ballot/jobs: one
// small file a job, which names the run's folder. Files are replaced whole.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ballot {

struct JobRecord {
  std::string name;        // unique in the list
  std::string on;          // local, ssh, mpirun, slurm, kubernetes
  std::string run_folder;  // absolute
  std::string id;          // Slurm's, or kubernetes/recorded_job.h's; empty elsewhere
  int workers = 0;
  bool elastic = false;
  double started = 0;  // seconds since the epoch
  // The launcher: which process, on which host; 0: none (yet).
  std::string host;
  pid_t launcher = 0;
  std::uint64_t launcher_start = 0;  // of the process, in the kernel's ticks: numbers are reused
  std::optional<int> exit_code;      // once it has ended
  double ended = 0;
};

// RUN/job.json. A run that is started again has the newest start only.
void write_job(const JobRecord& job);
// DataError where it is damaged; nothing where there is none.
std::optional<JobRecord> read_job(const std::string& run_folder);
JobRecord decode_job(std::string_view bytes, const std::string& path);

// This process becomes the job's launcher.
void take_over(JobRecord& job);
// Writes how it ended.
void end_job(JobRecord& job, int exit_code);

// Puts the job into the list. ConfigError where another job of this name runs.
void list_job(const JobRecord& job);
// All jobs of the list whose records can be read, by name; `problems`: what was wrong with others.
std::vector<JobRecord> listed_jobs(std::vector<std::string>& problems);
// By its name, or by its run folder. ConfigError that lists the names there are.
JobRecord find_job(const std::string& name_or_folder);

struct JobState {
  enum class Kind { queued, running, ended, lost, unknown } kind = Kind::unknown;
  std::string text;  // "running (Slurm job 12 on node[0-2])"
};
const char* to_string(JobState::Kind kind);
// Its launcher is a process of this host that has not ended.
bool launcher_runs_here(const JobRecord& job);
// Asks whoever keeps it: the kernel, squeue, kubectl.
JobState state_of(const JobRecord& job);

// A usual name for a run: its folder's last part, with what no name may have replaced.
std::string name_of_run(const std::string& run_folder);

}  // namespace ballot
