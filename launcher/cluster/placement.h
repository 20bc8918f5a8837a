// Which host runs what: voters by number onto hosts, slot by slot; a voter's members stay together.
#pragma once

#include <optional>
#include <vector>

#include "launcher/cluster/hosts.h"

namespace ballot {

class Placement {
 public:
  // Fills the hosts in their order, as mpirun's --map-by slot does; what is left stands by.
  // ConfigError where there is not room enough.
  Placement(std::vector<Host> hosts, int voters, int members);

  const std::vector<Host>& hosts() const { return hosts_; }
  int voters() const { return static_cast<int>(host_of_.size()); }
  int members() const { return members_; }
  std::size_t host_of(int voter) const { return host_of_[static_cast<std::size_t>(voter)]; }
  // How many processes of workers a host runs.
  int workers_of(std::size_t host) const;
  // The first of a voter's slots on its host, from 0: no two voters there share one.
  int slot_of(int voter) const { return slot_of_[static_cast<std::size_t>(voter)]; }

  // A voter whose host was lost goes to the next host that has room and was not lost itself; where
  // there is none, to one that was lost before it and may be back, or it stays. Returns its host.
  std::size_t move(int voter);

 private:
  std::optional<int> free_slot(std::size_t host) const;  // of `members` in a row
  std::vector<Host> hosts_;
  int members_;
  std::vector<std::size_t> host_of_;
  std::vector<int> slot_of_;
  std::vector<bool> lost_;  // by host
};

}  // namespace ballot
