// What Slurm says, in the environment of a batch script, of the nodes that a job was given.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "launcher/cluster/hosts.h"
#include "launcher/environment.h"  // Lookup

namespace ballot {

// The nodes of a Slurm list: "node[1-3,07-09],gpu1,rack[1-2]n[1-2]" gives node1 node2 node3 node07
// ... . Leading zeros are kept. ConfigError where the text is no such list, or names more than
// kMostHosts.
std::vector<std::string> expand_node_list(std::string_view list, const std::string& source);

// The numbers of SLURM_TASKS_PER_NODE: "2(x3),1" gives 2 2 2 1.
std::vector<int> expand_tasks_per_node(std::string_view text, const std::string& source);

// The allocation that this process is in: SLURM_JOB_NODELIST, each node with as many slots as
// SLURM_TASKS_PER_NODE gives it (1 where that is not set). ConfigError where there is none, or the
// two do not belong together.
std::vector<Host> read_allocation(const Lookup& environment = process_environment);

}  // namespace ballot
