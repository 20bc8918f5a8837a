#include "launcher/tcp_mesh.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <random>
#include <thread>

#include "core/error.h"

namespace ballot {
namespace {

constexpr std::size_t kMostAddresses = 16;
constexpr std::uint64_t kMagic = 0x62616c6c6f746c6eull;
constexpr auto kConnectLimit = std::chrono::milliseconds(1500);   // one address
constexpr auto kAnswerLimit = std::chrono::milliseconds(10'000);  // it is ours, but busy

// What travels between ranks of one build on possibly two kinds of machine: only bytes of fixed
// width, ports and addresses in network order.
struct Address {
  std::uint8_t family = 0;  // 4 or 6
  std::uint8_t bytes[16] = {};
};
struct Announcement {
  std::uint64_t nonce = 0;
  std::uint16_t port = 0;
  std::uint8_t count = 0;
  std::uint8_t unused[5] = {};
  Address addresses[kMostAddresses];
};
// Both sides send one: who I am, and whom I take you for.
struct Hello {
  std::uint64_t magic = kMagic;
  std::uint64_t nonce = 0;  // of the one it is sent to
  std::uint64_t rank = 0;
};

[[noreturn]] void fail(const char* what) {
  throw TransportError("cannot {}: {}", what, std::strerror(errno));
}

int milliseconds_left(TimePoint until) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(until - system_clock().now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count() + 1, 0, 60'000));
}

// False when `until` passed first.
bool wait_ready(int socket, short events, TimePoint until) {
  for (;;) {
    pollfd ready{socket, events, 0};
    const int count = ::poll(&ready, 1, milliseconds_left(until));
    if (count > 0) return true;
    if (count < 0 && errno != EINTR) fail("wait for a socket");
    if (system_clock().now() >= until) return false;
  }
}

// Whole messages on a non-blocking socket; false with errno set when it ends or takes too long.
bool send_whole(int socket, const void* data, std::size_t size, TimePoint until) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::send(socket, at, size, MSG_NOSIGNAL);
    if (count > 0) {
      at += count;
      size -= static_cast<std::size_t>(count);
    } else if (errno != EAGAIN && errno != EINTR) {
      return false;
    } else if (!wait_ready(socket, POLLOUT, until)) {
      errno = ETIMEDOUT;
      return false;
    }
  }
  return true;
}
bool receive_whole(int socket, void* data, std::size_t size, TimePoint until) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t count = ::recv(socket, at, size, 0);
    if (count > 0) {
      at += count;
      size -= static_cast<std::size_t>(count);
    } else if (count == 0) {
      errno = ECONNRESET;
      return false;
    } else if (errno != EAGAIN && errno != EINTR) {
      return false;
    } else if (!wait_ready(socket, POLLIN, until)) {
      errno = ETIMEDOUT;
      return false;
    }
  }
  return true;
}

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};
SocketAddress to_socket_address(const Address& address, std::uint16_t port) {
  SocketAddress result;
  if (address.family == 4) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = port;
    std::memcpy(&in.sin_addr, address.bytes, 4);
    std::memcpy(&result.storage, &in, sizeof in);
    result.length = sizeof in;
  } else {
    sockaddr_in6 in{};
    in.sin6_family = AF_INET6;
    in.sin6_port = port;
    std::memcpy(&in.sin6_addr, address.bytes, 16);
    std::memcpy(&result.storage, &in, sizeof in);
    result.length = sizeof in;
  }
  return result;
}
std::string to_text(const Address& address) {
  char text[INET6_ADDRSTRLEN] = "?";
  ::inet_ntop(address.family == 4 ? AF_INET : AF_INET6, address.bytes, text, sizeof text);
  return text;
}

// An address as the kernel gives it, IPv4 in IPv6 taken out; nothing for other families and for
// link-local ones, which need a scope that the peer cannot know.
bool read_address(const sockaddr* from, Address& address) {
  if (from == nullptr) return false;
  if (from->sa_family == AF_INET) {
    address.family = 4;
    std::memcpy(address.bytes, &reinterpret_cast<const sockaddr_in*>(from)->sin_addr, 4);
    return true;
  }
  if (from->sa_family != AF_INET6) return false;
  const in6_addr& in = reinterpret_cast<const sockaddr_in6*>(from)->sin6_addr;
  if (IN6_IS_ADDR_LINKLOCAL(&in)) return false;
  if (IN6_IS_ADDR_V4MAPPED(&in)) {
    address.family = 4;
    std::memcpy(address.bytes, reinterpret_cast<const char*>(&in) + 12, 4);
  } else {
    address.family = 6;
    std::memcpy(address.bytes, &in, 16);
  }
  return true;
}
bool equal(const Address& one, const Address& other) {
  return one.family == other.family && std::memcmp(one.bytes, other.bytes, 16) == 0;
}

// body(address, interface name, is loopback) for every interface that is up.
template <class Body>
void for_each_address(const Body& body) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) fail("list the addresses of this machine");
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    Address address;
    if ((entry->ifa_flags & IFF_UP) != 0 && read_address(entry->ifa_addr, address))
      body(address, std::string(entry->ifa_name), (entry->ifa_flags & IFF_LOOPBACK) != 0);
  }
  ::freeifaddrs(list);
}

Announcement announce(std::uint16_t port) {
  Announcement mine;
  std::random_device random;
  mine.nonce = (std::uint64_t{random()} << 32) | random();
  mine.port = port;
  std::vector<Address> addresses, last;
  for_each_address([&](const Address& address, const std::string&, bool loopback) {
    (loopback ? last : addresses).push_back(address);
  });
  if (addresses.size() + last.size() > kMostAddresses)
    addresses.resize(kMostAddresses - std::min(last.size(), kMostAddresses / 2));
  addresses.insert(addresses.end(), last.begin(), last.end());
  mine.count = static_cast<std::uint8_t>(std::min(addresses.size(), kMostAddresses));
  std::copy_n(addresses.begin(), mine.count, mine.addresses);
  return mine;
}

Descriptor listen_anywhere(std::uint16_t& port) {
  for (const int family :
       {AF_INET6, AF_INET}) {  // the first takes IPv4 as well, where there is IPv6
    Descriptor socket(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.is_open()) continue;
    const int off = 0;
    if (family == AF_INET6)
      ::setsockopt(socket.number(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    sockaddr_storage address{};
    address.ss_family = static_cast<sa_family_t>(family);  // any address, any port
    socklen_t length = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    if (::bind(socket.number(), reinterpret_cast<sockaddr*>(&address), length) != 0) continue;
    if (::listen(socket.number(), 1024) != 0) continue;
    length = sizeof address;
    if (::getsockname(socket.number(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
      continue;
    port = family == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                              : reinterpret_cast<const sockaddr_in*>(&address)->sin_port;
    return socket;
  }
  fail("listen on any port");
}

Descriptor connect_to(const Announcement& peer, const Hello& hello, std::uint64_t own_nonce,
                      int rank, int peer_rank, Deadline deadline) {
  std::string answers;
  for (std::size_t i = 0; i < peer.count && !deadline.passed(); ++i) {
    const Address& address = peer.addresses[i];
    const auto answer = [&](const char* text) {
      answers += fmt::format("{}{} port {}: {}", answers.empty() ? "" : "; ", to_text(address),
                             ntohs(peer.port), text);
    };
    Descriptor socket(::socket(address.family == 4 ? AF_INET : AF_INET6,
                               SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.is_open()) {
      answer(std::strerror(errno));
      continue;
    }
    const SocketAddress target = to_socket_address(address, peer.port);
    const TimePoint until = std::min(deadline.at, system_clock().now() + kConnectLimit);
    int error = 0;
    if (::connect(socket.number(), reinterpret_cast<const sockaddr*>(&target.storage),
                  target.length) != 0) {
      error = errno;
      if (error == EINPROGRESS) {
        socklen_t length = sizeof error;
        if (!wait_ready(socket.number(), POLLOUT, until))
          error = ETIMEDOUT;
        else
          ::getsockopt(socket.number(), SOL_SOCKET, SO_ERROR, &error, &length);
      }
    }
    if (error != 0) {
      answer(std::strerror(error));
      continue;
    }
    const TimePoint answered = std::min(deadline.at, system_clock().now() + kAnswerLimit);
    Hello theirs;
    if (!send_whole(socket.number(), &hello, sizeof hello, answered) ||
        !receive_whole(socket.number(), &theirs, sizeof theirs, answered)) {
      answer(std::strerror(errno));
      continue;
    }
    if (theirs.magic == kMagic && theirs.nonce == own_nonce &&
        theirs.rank == static_cast<std::uint64_t>(peer_rank))
      return socket;
    answer("somebody else answers there");
  }
  throw PeerLost("rank {} cannot be reached by TCP from rank {} ({})", peer_rank, rank,
                 answers.empty() ? "it has no address" : answers);
}

// Takes connections of the ranks below until all of them are here.
void accept_peers(int listener, const std::vector<Announcement>& all, int rank, Deadline deadline,
                  std::vector<Descriptor>& sockets) {
  int missing = rank;
  while (missing > 0) {
    if (!wait_ready(listener, POLLIN, deadline.at)) {
      std::vector<int> names;
      for (int r = 0; r < rank; ++r)
        if (!sockets[static_cast<std::size_t>(r)].is_open()) names.push_back(r);
      throw Timeout("rank {} waited for a TCP connection of {} past its deadline", rank,
                    name_ranks(names));
    }
    Descriptor socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.is_open()) continue;  // it went away again
    Hello hello;
    const TimePoint until = std::min(deadline.at, system_clock().now() + kConnectLimit);
    if (!receive_whole(socket.number(), &hello, sizeof hello, until)) continue;
    if (hello.magic != kMagic || hello.nonce != all[static_cast<std::size_t>(rank)].nonce ||
        hello.rank >= static_cast<std::uint64_t>(rank))
      continue;  // a stranger, or a peer that took us for another
    const std::size_t peer = static_cast<std::size_t>(hello.rank);
    const Hello answer{kMagic, all[peer].nonce, static_cast<std::uint64_t>(rank)};
    if (!send_whole(socket.number(), &answer, sizeof answer, until)) continue;
    missing -= !sockets[peer].is_open();
    sockets[peer] = std::move(socket);
  }
}

std::string interface_of(int socket) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  Address local;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&storage), &length) != 0 ||
      !read_address(reinterpret_cast<const sockaddr*>(&storage), local))
    return "";
  sockaddr_storage peer_storage{};
  length = sizeof peer_storage;
  Address peer;
  const bool known =
      ::getpeername(socket, reinterpret_cast<sockaddr*>(&peer_storage), &length) == 0 &&
      read_address(reinterpret_cast<const sockaddr*>(&peer_storage), peer);
  std::string name, loopback;
  bool same_machine = false;
  for_each_address([&](const Address& address, const std::string& interface, bool is_loopback) {
    if (equal(address, local)) name = interface;
    if (is_loopback) loopback = interface;
    // To any address of its own a machine talks through its loopback interface.
    if (known && equal(address, peer)) same_machine = true;
  });
  return same_machine ? loopback : name;
}

}  // namespace

TcpMesh::TcpMesh(Transport& transport, Deadline deadline)
    : rank_(transport.rank()), sockets_(static_cast<std::size_t>(transport.size())) {
  const std::size_t me = static_cast<std::size_t>(rank_);
  std::uint16_t port = 0;
  const Descriptor listener = listen_anywhere(port);
  std::vector<Announcement> all(sockets_.size());
  all[me] = announce(port);
  std::vector<Bytes> from;
  for (Announcement& one : all) from.push_back(std::as_writable_bytes(std::span(&one, 1)));
  transport.start_gather(Purpose::control, std::as_bytes(std::span(&all[me], 1)), from)
      ->wait(deadline);

  // Every rank calls those above it and answers those below it, at the same time.
  std::vector<Descriptor> accepted(sockets_.size());
  std::exception_ptr failure;
  std::thread acceptor([&] {
    try {
      accept_peers(listener.number(), all, rank_, deadline, accepted);
    } catch (...) {
      failure = std::current_exception();
    }
  });
  std::exception_ptr own_failure;
  try {
    for (int peer = rank_ + 1; peer < transport.size(); ++peer) {
      const Announcement& theirs = all[static_cast<std::size_t>(peer)];
      const Hello hello{kMagic, theirs.nonce, static_cast<std::uint64_t>(rank_)};
      sockets_[static_cast<std::size_t>(peer)] =
          connect_to(theirs, hello, all[me].nonce, rank_, peer, deadline);
    }
  } catch (...) {
    own_failure = std::current_exception();
  }
  acceptor.join();
  if (own_failure) std::rethrow_exception(own_failure);
  if (failure) std::rethrow_exception(failure);
  for (int peer = 0; peer < rank_; ++peer)
    sockets_[static_cast<std::size_t>(peer)] = std::move(accepted[static_cast<std::size_t>(peer)]);
  for (int peer = 0; peer < transport.size(); ++peer) {
    if (peer == rank_) continue;
    const int on = 1;
    ::setsockopt(socket(peer), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (interface_name_.empty()) interface_name_ = interface_of(socket(peer));
  }
  transport.barrier(deadline);
}

}  // namespace ballot
