// How a process is started on a host of a job: as a child here, by ssh, or by srun inside a Slurm
// allocation. The command is the same everywhere; elsewhere an agent (agent.h) runs it.
#pragma once

#include <string>
#include <vector>

#include "launcher/cluster/agent.h"  // AgentOrder

namespace ballot {

enum class StartMethod { here, ssh, srun };

struct Starter {
  StartMethod method = StartMethod::here;
  std::string program;  // `ballot` on the hosts: a path
  // ssh: the client and its options; host and agent are added.
  std::vector<std::string> ssh = {"ssh"};
  int cpus = 0;  // srun: of each process; it does not take them from the allocation; 0: not said
};

// What a launcher runs: the words of a child process and what it is told on its standard input
// (empty: nothing, and it has none).
struct StartCommand {
  std::vector<std::string> words;  // words[0]: a path
  std::string input;               // an agent's order
  bool by_agent() const { return !input.empty(); }
};

// Unavailable, with the package to install, where ssh or srun is not in PATH.
StartCommand make_start(const Starter& starter, const std::string& host, const AgentOrder& order);

}  // namespace ballot
