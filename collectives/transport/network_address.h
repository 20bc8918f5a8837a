// Where a worker listens: "host:port" as people write it, and the numeric addresses behind it.
#pragma once

#include <cstdint>
#include <string>

namespace ballot {

struct HostPort {
  std::string host;
  std::uint16_t port = 0;
};

// "name:29400", "10.0.0.1:29400", "[fe80::1]:29400"; ConfigError, naming `what`, for anything else.
HostPort parse_host_port(const std::string& text, const std::string& what);
// The same for where to listen: port 0 is any.
HostPort parse_listen(const std::string& text, const std::string& what);

// A numeric address.
struct NetworkAddress {
  std::string ip;
  bool v6 = false;
  std::uint16_t port = 0;
  bool loopback() const;
  std::string text() const;         // "10.0.0.1:29400", "[::1]:29400"
  std::string grpc_target() const;  // "ipv4:10.0.0.1:29400", "ipv6:[::1]:29400"
};

// Asks the resolver, which has deadlines of its own; TransportError when it does not know the host.
NetworkAddress resolve(const HostPort& where);

// The address of the interface from which `to` is reached, port 0; TransportError when there is no
// route.
NetworkAddress address_towards(const NetworkAddress& to);

// One end of a TCP connection of this process, by which it is found again.
struct ConnectionEnd {
  std::uint16_t local_port = 0;
  std::string remote_ip;
  std::uint16_t remote_port = 0;
};

// "ipv4:10.0.0.1:4711" or "ipv6:%5B::1%5D:4711", as gRPC names the other end; port 0 if it is
// neither.
NetworkAddress parse_grpc_peer(const std::string& text);

// Ends the connection, whoever in this process holds its socket: what waits to be written fails at
// once. False if there is none such.
bool end_connection(const ConnectionEnd& end);

// Opens a connection and closes it again, without waiting for either.
void try_to_connect(const NetworkAddress& to);

// Why nobody can listen there, or empty.
std::string why_not_listen(const NetworkAddress& at);

}  // namespace ballot
