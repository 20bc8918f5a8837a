// What `ballot launch` was asked for, whatever it starts the job on.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/cluster/slurm.h"                 // SlurmJob
#include "launcher/kubernetes/launch_kubernetes.h"  // KubernetesFlags
#include "launcher/worker_transport.h"              // TransportChoice
#include "runtime/run_config.h"

namespace ballot {

class LaunchedJob;  // launch_job.h: its record; begun once all checks have passed

struct LaunchFlags {
  std::string run_file;
  std::vector<std::string> settings;
  std::string on = "local";  // local, ssh, mpirun, slurm, kubernetes
  int workers = 1;
  std::string resume;  // "journal", "checkpoint"; empty: a new run
  int restarts = 0;
  bool elastic = false;
  std::optional<int> min_workers;  // none: 1 of an elastic job, all of another
  TransportChoice transport;
  std::string hosts;      // ssh, mpirun: a file or a list
  std::string interface;  // between hosts; empty: chosen
  std::string program;    // `ballot` on the hosts; empty: where it is here
  std::string ssh = "ssh";
  std::string name;                     // of the job; empty: its run folder's
  bool detach = false, attach = false;  // neither: as is usual for what the job is started on
  bool dry_run = false;
  bool inside = false;  // slurm: in the allocation that this process is in
  int retries = 0;      // slurm: of the job, by Slurm's queue
  SlurmJob slurm;       // nodes, time and the like
  KubernetesFlags kubernetes;
};

// This machine's of a local job, else those that see this one's files; pods see others.
Machines machines_of(const LaunchFlags& flags);
// A job of workers on this machine, through mpirun.
int launch_local(const RunConfig& config, const LaunchFlags& flags, LaunchedJob& job);
// The same with a coordinator beside them.
int launch_elastic(const RunConfig& config, const LaunchFlags& flags, LaunchedJob& job);
// What contradicts itself of flags and run file, for a job on such hosts.
void check_hosts_flags(const RunConfig& config, const LaunchFlags& flags);
// On hosts that ssh reaches, or those of the Slurm allocation that this process is in.
int launch_on_hosts(const RunConfig& config, const LaunchFlags& flags);
// Submits a batch script that does so; follows it where it is not to be detached.
int launch_on_slurm(const RunConfig& config, const LaunchFlags& flags);

}  // namespace ballot
