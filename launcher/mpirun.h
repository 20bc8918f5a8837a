// How mpirun is called here: workers not bound to cores, patient while they wait.
#pragma once

#include <string>
#include <vector>

namespace ballot {

// mpirun's path and its flags; each worker's command follows. Unavailable where it is not
// installed.
std::vector<std::string> mpirun_words(int workers, int threads_per_worker);

// Workers on other machines: further flags, before the number of workers.
struct MpiHosts {
  int threads_per_worker = 1;   // that the hosts have cores for
  std::string hosts;            // "node1:2,node2:1"; empty: this machine only
  std::string network;          // that TCP goes by, of its daemons and its messages: "10.0.0.0/24"
  std::string ssh;              // that reaches the hosts, with its options
  std::string folder;           // that the workers run in
  std::string nccl_interfaces;  // NCCL_SOCKET_IFNAME of the workers; empty: as it is there
};
std::vector<std::string> mpirun_words(int workers, int threads_per_worker, const MpiHosts& hosts);
// The flags alone, for an mpirun of another machine.
std::vector<std::string> mpirun_flags(int workers, int threads_per_worker,
                                      const MpiHosts& hosts = {});

}  // namespace ballot
