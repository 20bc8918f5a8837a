// A job on named hosts: what each process is, as commands for the supervisor.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "collectives/transport/grpc_transport.h"  // GrpcTls
#include "launcher/cluster/placement.h"
#include "launcher/cluster/preflight.h"
#include "launcher/cluster/supervisor.h"

namespace ballot {

struct HostJob {
  Starter starter;
  std::string folder;    // that the job runs in, on every host
  std::string run_file;  // as seen from there
  std::vector<std::string> settings;
  std::string run_folder;       // output.folder
  std::string coordinator_run;  // its name at the coordinator; empty: the folder's
  bool elastic = false;
  int min_voters = 1;      // elastic
  std::string prometheus;  // elastic: of the coordinator's endpoint; empty: none
  std::string resume;      // fixed: --resume=...; empty: a new run
  int threads = 0;         // of each worker; 0: the host's cores divided by its workers
  int restarts = 0;        // elastic
  std::string token;       // the job's secret
  GrpcTls tls;
  bool insecure = false;
  bool nccl = false;            // fixed: votes from GPU to GPU
  std::string nccl_interfaces;  // NCCL_SOCKET_IFNAME of them all; empty: of the network chosen
};

// Of each host: its cores for each of its workers, also of those that are there under another name
// of it. Every host has facts.
std::vector<int> threads_of_workers(const Placement& placement, const Preflight& seen);

// `placement` is moved on when a host is lost, so it lives as long as the job. `seen`: what the
// preflight found, of the hosts of `placement`.
SupervisedJob make_host_job(const HostJob& job, std::shared_ptr<Placement> placement,
                            const Preflight& seen);

}  // namespace ballot
