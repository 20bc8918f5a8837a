// One raw TCP connection between every two ranks, found by trying each other's addresses.
//
// For measuring the link itself, beside whatever the transport does. Each rank listens on a port of
// its own and tells its addresses and a random number over the transport; a peer is reached where
// that number is answered, so an address that leads to somebody else (each machine has its own
// 127.0.0.1, often its own 172.17.0.1) is passed over. Addresses of the loopback interface are
// tried last. IPv4 and IPv6, none of link-local scope.
#pragma once

#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "launcher/child_process.h"  // Descriptor

namespace ballot {

class TcpMesh {
 public:
  // Collective. PeerLost names the peer that cannot be reached and what each address answered.
  TcpMesh(Transport& transport, Deadline deadline);

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(sockets_.size()); }
  // Non-blocking, without Nagle's delay; -1 for the own rank.
  int socket(int peer) const { return sockets_[static_cast<std::size_t>(peer)].number(); }
  // The interface by which this rank reaches the first of its peers, "lo" on one machine; empty
  // with one rank.
  const std::string& interface_name() const { return interface_name_; }

 private:
  int rank_;
  std::vector<Descriptor> sockets_;
  std::string interface_name_;
};

}  // namespace ballot
