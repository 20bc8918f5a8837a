// A way to a server that a test can cut: passes bytes on, both ways, until it is told to lose what
// the server answers, or to let nothing through at all.
#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <list>
#include <string>
#include <thread>
#include <vector>

namespace ballot::test {

class TcpRelay {
 public:
  enum class Passes { both, requests, nothing };

  explicit TcpRelay(int server_port) : server_port_(server_port) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    ::bind(listener_, reinterpret_cast<sockaddr*>(&address), length);
    ::listen(listener_, 16);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  TcpRelay(const TcpRelay&) = delete;
  TcpRelay& operator=(const TcpRelay&) = delete;
  ~TcpRelay() {
    ending_ = true;
    thread_.join();
    for (const Pair& pair : pairs_) pair.close();
    ::close(listener_);
  }

  std::string address() const { return fmt::format("127.0.0.1:{}", port_); }
  // What does not pass is lost: connections of that time must not be used again.
  void pass(Passes passes) { passes_ = passes; }

 private:
  struct Pair {
    int client, server;
    void close() const {
      ::close(client);
      ::close(server);
    }
  };
  static sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    return address;
  }

  void run() {
    while (!ending_) {
      std::vector<pollfd> all{{listener_, POLLIN, 0}};
      for (const Pair& pair : pairs_) {
        all.push_back({pair.client, POLLIN, 0});
        all.push_back({pair.server, POLLIN, 0});
      }
      ::poll(all.data(), all.size(), 20);
      std::size_t at = 1;
      for (auto pair = pairs_.begin(); pair != pairs_.end(); at += 2) {
        const bool open = carry(all[at], pair->server, passes_ != Passes::nothing) &&
                          carry(all[at + 1], pair->client, passes_ == Passes::both);
        if (!open) pair->close();
        pair = open ? std::next(pair) : pairs_.erase(pair);
      }
      if (all[0].revents != 0) accept();
    }
  }
  void accept() {
    const Pair pair{::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC),
                    ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const sockaddr_in address = loopback(server_port_);
    if (::connect(pair.server, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
      pairs_.push_back(pair);
    else
      pair.close();
  }
  // Whether both ends are still there.
  static bool carry(const pollfd& from, int to, bool passes) {
    if (from.revents == 0) return true;
    char bytes[16384];
    const ssize_t count = ::read(from.fd, bytes, sizeof bytes);
    if (count <= 0) return false;
    for (ssize_t sent = 0; passes && sent < count;) {
      const ssize_t more =
          ::send(to, bytes + sent, static_cast<std::size_t>(count - sent), MSG_NOSIGNAL);
      if (more <= 0) return false;
      sent += more;
    }
    return true;
  }

  const int server_port_;
  int listener_ = -1, port_ = 0;
  std::atomic<Passes> passes_ = Passes::both;
  std::atomic<bool> ending_ = false;
  std::list<Pair> pairs_;  // the thread's
  std::thread thread_;
};

}  // namespace ballot::test
