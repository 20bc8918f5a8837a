#include "collectives/transport/network_address.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace ballot {
namespace {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

SocketAddress socket_address(const NetworkAddress& address) {
  SocketAddress result;
  if (address.v6) {
    auto* in = reinterpret_cast<sockaddr_in6*>(&result.storage);
    in->sin6_family = AF_INET6;
    in->sin6_port = htons(address.port);
    inet_pton(AF_INET6, address.ip.c_str(), &in->sin6_addr);
    result.size = sizeof *in;
  } else {
    auto* in = reinterpret_cast<sockaddr_in*>(&result.storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(address.port);
    inet_pton(AF_INET, address.ip.c_str(), &in->sin_addr);
    result.size = sizeof *in;
  }
  return result;
}

NetworkAddress numeric(const sockaddr* address) {
  NetworkAddress result;
  char text[INET6_ADDRSTRLEN] = {};
  if (address->sa_family == AF_INET6) {
    const auto* in = reinterpret_cast<const sockaddr_in6*>(address);
    inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
    result.v6 = true;
    result.port = ntohs(in->sin6_port);
  } else {
    const auto* in = reinterpret_cast<const sockaddr_in*>(address);
    inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
    result.port = ntohs(in->sin_port);
  }
  result.ip = text;
  return result;
}

class Socket {
 public:
  Socket(bool v6, int type) : fd_(socket(v6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0)) {}
  Socket(const Socket&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

HostPort parse_host_port(const std::string& text, const std::string& what) {
  HostPort result;
  const std::size_t colon = text.rfind(':');
  std::string host = colon == std::string::npos ? "" : text.substr(0, colon);
  const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (brackets) host = host.substr(1, host.size() - 2);
  const char* end = text.data() + text.size();
  int port = 0;
  const auto parsed = colon == std::string::npos
                          ? std::from_chars_result{end, std::errc::invalid_argument}
                          : std::from_chars(text.data() + colon + 1, end, port);
  if (host.empty() || (!brackets && host.find(':') != std::string::npos) ||
      parsed.ec != std::errc() || parsed.ptr != end || port < 1 || port > 65535)
    throw ConfigError("{} \"{}\": expected host:port, such as 10.0.0.1:29400 or [::1]:29400", what,
                      text);
  result.host = host;
  result.port = static_cast<std::uint16_t>(port);
  return result;
}

HostPort parse_listen(const std::string& text, const std::string& what) {
  if (!text.ends_with(":0")) return parse_host_port(text, what);
  HostPort where = parse_host_port(text.substr(0, text.size() - 1) + "1", what);
  where.port = 0;
  return where;
}

bool NetworkAddress::loopback() const {
  return v6 ? ip == "::1" : ip.starts_with("127.");
}

std::string NetworkAddress::text() const {
  return v6 ? fmt::format("[{}]:{}", ip, port) : fmt::format("{}:{}", ip, port);
}

std::string NetworkAddress::grpc_target() const {
  return (v6 ? "ipv6:" : "ipv4:") + text();
}

NetworkAddress resolve(const HostPort& where) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(where.host.c_str(), nullptr, &hints, &found);
  if (code != 0)
    throw TransportError("the address of {} is not known: {}", where.host, gai_strerror(code));
  const addrinfo* best = found;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next)
    if (at->ai_family == AF_INET) {
      best = at;
      break;
    }
  NetworkAddress address = numeric(best->ai_addr);
  freeaddrinfo(found);
  address.port = where.port;
  return address;
}

NetworkAddress address_towards(const NetworkAddress& to) {
  const Socket udp(to.v6, SOCK_DGRAM);
  SocketAddress address = socket_address(to);
  SocketAddress mine;
  mine.size = sizeof mine.storage;
  // Sends nothing: asks the routing table.
  if (connect(udp.get(), address.get(), address.size) != 0 ||
      getsockname(udp.get(), mine.get(), &mine.size) != 0)
    throw TransportError("no route to {}: {}", to.text(), std::strerror(errno));
  NetworkAddress result = numeric(mine.get());
  result.port = 0;
  return result;
}

NetworkAddress parse_grpc_peer(const std::string& text) {
  NetworkAddress result;
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon < 5) return result;
  if (text.starts_with("ipv4:")) {
    result.ip = text.substr(5, colon - 5);
  } else if (text.starts_with("ipv6:%5B")) {
    result.v6 = true;
    result.ip = text.substr(8, text.find("%5D") - 8);
  } else {
    return result;
  }
  std::from_chars(text.data() + colon + 1, text.data() + text.size(), result.port);
  // What a socket for both families calls an IPv4 address.
  if (result.ip.starts_with("::ffff:")) result.ip = result.ip.substr(7);
  return result;
}

bool end_connection(const ConnectionEnd& end) {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return false;
  bool found = false;
  while (const dirent* entry = readdir(folder)) {
    const int fd = std::atoi(entry->d_name);
    SocketAddress local, remote;
    local.size = remote.size = sizeof local.storage;
    if (fd <= 2 || getsockname(fd, local.get(), &local.size) != 0 ||
        getpeername(fd, remote.get(), &remote.size) != 0)
      continue;
    if (remote.get()->sa_family != AF_INET && remote.get()->sa_family != AF_INET6) continue;
    NetworkAddress there = numeric(remote.get());
    if (there.ip.starts_with("::ffff:")) there.ip = there.ip.substr(7);
    if (numeric(local.get()).port != end.local_port || there.port != end.remote_port ||
        there.ip != end.remote_ip)
      continue;
    ::shutdown(fd, SHUT_RDWR);
    found = true;
  }
  closedir(folder);
  return found;
}

void try_to_connect(const NetworkAddress& to) {
  const Socket tcp(to.v6, SOCK_STREAM | SOCK_NONBLOCK);
  SocketAddress address = socket_address(to);
  [[maybe_unused]] const int begun = connect(tcp.get(), address.get(), address.size);
}

std::string why_not_listen(const NetworkAddress& at) {
  const Socket tcp(at.v6, SOCK_STREAM);
  const int on = 1;
  setsockopt(tcp.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  SocketAddress address = socket_address(at);
  if (bind(tcp.get(), address.get(), address.size) != 0 || listen(tcp.get(), 1) != 0)
    return std::strerror(errno);
  return "";
}

}  // namespace ballot
