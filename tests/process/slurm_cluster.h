// A real Slurm on this machine: munge, slurmctld and one slurmd for each of several virtual nodes,
// all on loopback and with their files in a folder of the test.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/process/command.h"
#include "tests/support/server_process.h"
#include "tests/support/temporary_folder.h"

namespace ballot {

class SlurmCluster {
 public:
  // As root: slurmd starts what it runs as its user. Throws what a daemon said where one fails. A
  // node has as many GPUs as Slurm is told, whatever there is, and then two CPUs for each.
  explicit SlurmCluster(int nodes, int gpus = 0);

  // For `ballot` and Slurm's own programs: which cluster.
  Environment environment() const { return {{"SLURM_CONF", folder_.file("slurm.conf")}}; }
  // Runs one of Slurm's programs and gives its output; throws where it fails.
  std::string run(const std::string& command) const;
  // The node's slurmd and all that it runs are killed at once, as by a power cut.
  void kill_node(int node);

 private:
  TemporaryFolder folder_;
  std::unique_ptr<test::ServerProcess> munge_, controller_;
  std::vector<std::unique_ptr<test::ServerProcess>> nodes_;
};

}  // namespace ballot
