// By which address of each host the others of a job will reach it: chosen once, for all, and said
// why.
//
// Peers' users suffer most from a network card that was guessed (docker0, a veth, loopback): so the
// choice is made from what all hosts have, and every pair of addresses is tried before a step is
// made (reach.h).
#pragma once

#include <string>
#include <vector>

#include "launcher/cluster/host_facts.h"

namespace ballot {

struct NetworkChoice {
  std::vector<NetworkInterface> of_host;  // in the order of the hosts
  std::string reason;  // "10.77.0.0/24 is the only network that all hosts are on"
};

// `facts` in the order of `hosts`, the names that a user gave. `asked`: an interface's name
// ("eth0", as a whole: never a prefix) or a network ("10.0.0.0/8"). Empty: loopback where all hosts
// are one machine; else the network that all hosts are on; of several the one that the hosts' names
// resolve to (`resolved`, one address a host, empty where it is not known), or the fastest, if one
// is. Addresses of containers (docker, veth, virbr, cni, flannel) and link-local ones only where
// they are asked for. ConfigError that lists what each host has.
NetworkChoice choose_network(const std::vector<std::string>& hosts,
                             const std::vector<HostFacts>& facts,
                             const std::vector<std::string>& resolved, const std::string& asked);

// "10.77.0.0/24": the network that an interface is on.
std::string network_text(const NetworkInterface& interface);

// The value of NCCL_SOCKET_IFNAME by which NCCL takes this interface and no other; empty for
// loopback, where it may take what it likes.
std::string nccl_interface(const NetworkInterface& interface);

// The IPv4 address that a host's name has for this machine; empty where it has none. A user@ before
// it does not count. May take as long as the resolver does.
std::string resolve(const std::string& host);

}  // namespace ballot
