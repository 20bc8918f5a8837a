// Slurm: a batch script for a job, submitted, asked for and cancelled by Slurm's own programs.
//
// The script becomes `ballot launch --on slurm --inside` on the allocation's first node, which
// reads SLURM_* and starts everybody by srun (no PMIx): so one process there sees all ends, and
// what dies is started again inside the allocation.
#pragma once

#include <string>
#include <vector>

namespace ballot {

struct SlurmJob {
  std::string name;
  int nodes = 1, workers_per_node = 1;
  int cpus_per_worker = 0;  // 0: Slurm's default
  int gpus_per_node = 0;
  std::string time, partition, account;  // as sbatch takes them; empty: the site's default
  int drain_seconds = 120;  // before the time limit the workers are asked to leave, and requeued
  // How a job that a retry can help is tried again, at most `retries` times.
  enum class Retry { requeue, array } retry = Retry::requeue;
  int retries = 0;
  std::vector<std::string> options;  // further "#SBATCH" lines: "--exclusive"
  std::string folder;                // absolute: where it runs
  std::string log;                   // absolute: of the script and the launcher
  std::vector<std::string> command;  // `ballot launch ... --on slurm --inside`
};

// The text of the batch script. ConfigError where a value has a line feed.
std::string render_batch_script(const SlurmJob& job);

// The job's id. Unavailable where there is no sbatch; ConfigError with what it said.
std::string submit_batch_script(const std::string& path);

struct SlurmState {
  bool known = false;  // still queued or running, as squeue sees it
  bool pending = false;
  std::string reason;  // nodes, or why it waits
};
SlurmState slurm_state(const std::string& id);

// Asks the job's workers to leave in order (`now`: takes it off at once, with Slurm's own
// patience).
void cancel_slurm_job(const std::string& id, bool now);

// Puts the running job back into the queue: what asks for it ends with that.
void requeue_slurm_job(const std::string& id);

}  // namespace ballot
