// A real etcd server of one member, on loopback, with a data folder of its own.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/free_port.h"
#include "tests/support/http_get.h"
#include "tests/support/temporary_folder.h"

namespace ballot::test {

class EtcdProcess {
 public:
  // Throws, naming what is missing, where there is no etcd: these tests are not skipped.
  // `more`: flags of etcd's; `scheme`: of its clients, "http" or "https".
  explicit EtcdProcess(const std::vector<std::string>& more = {},
                       const std::string& scheme = "http")
      : EtcdProcess("default", free_port(), "", more, scheme) {
    start();
  }
  // Member `name` of a cluster, as etcd writes it; not started yet. Empty: of its own.
  EtcdProcess(const std::string& name, int peer_port, const std::string& cluster,
              const std::vector<std::string>& more = {}, const std::string& scheme = "http")
      : port_(free_port()), health_port_(free_port()) {
    const std::string client = fmt::format("{}://127.0.0.1:{}", scheme, port_);
    const std::string peer = fmt::format("http://127.0.0.1:{}", peer_port);
    words_ = {"etcd",
              "--name",
              name,
              "--data-dir",
              folder_.file("data"),
              "--listen-client-urls",
              client,
              "--advertise-client-urls",
              client,
              "--listen-peer-urls",
              peer,
              "--initial-advertise-peer-urls",
              peer,
              "--initial-cluster",
              cluster.empty() ? name + "=" + peer : cluster,
              "--listen-metrics-urls",
              fmt::format("http://127.0.0.1:{}", health_port_),
              "--logger",
              "zap",
              "--log-level",
              "warn"};
    words_.insert(words_.end(), more.begin(), more.end());
  }
  EtcdProcess(const EtcdProcess&) = delete;
  EtcdProcess& operator=(const EtcdProcess&) = delete;
  ~EtcdProcess() { end(); }

  int port() const { return port_; }
  std::string member() const { return fmt::format("127.0.0.1:{}", port_); }
  std::string address() const { return "etcd://" + member(); }
  void send(int signal) const { ::kill(id_, signal); }

  // With what it has on disk.
  void start() {
    launch();
    wait();
  }
  void launch() {
    std::vector<char*> argv;
    for (std::string& word : words_) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string log = folder_.file("log");
    const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const pid_t parent = ::getpid();
    id_ = ::fork();
    if (id_ == 0) {  // only what is safe between fork and exec
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(126);
      ::dup2(output, STDOUT_FILENO);
      ::dup2(output, STDERR_FILENO);
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(output);
  }
  // Until it serves; a member of a cluster does when most of them are there.
  void wait() {
    const std::string log = folder_.file("log");
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (http_get(health_port_, "/health").find("true") == std::string::npos) {
      int status = 0;
      if (::waitpid(id_, &status, WNOHANG) == id_) {
        id_ = -1;
        throw std::runtime_error(WIFEXITED(status) && WEXITSTATUS(status) == 127
                                     ? "there is no etcd here: install Debian's etcd-server"
                                     : "etcd ended: " + output_of(log));
      }
      if (std::chrono::steady_clock::now() > limit)
        throw std::runtime_error("etcd does not serve after 30 s: " + output_of(log));
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  // As kill -9.
  void end() {
    if (id_ <= 0) return;
    ::kill(id_, SIGKILL);
    ::waitpid(id_, nullptr, 0);
    id_ = -1;
  }

 private:
  static std::string output_of(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  TemporaryFolder folder_;
  const int port_, health_port_;
  std::vector<std::string> words_;
  pid_t id_ = -1;
};

// Three members of one cluster.
class EtcdCluster {
 public:
  EtcdCluster() {
    std::vector<int> peers;
    std::string cluster;
    for (int i = 0; i < 3; ++i) {
      peers.push_back(free_port());
      cluster += fmt::format("{}m{}=http://127.0.0.1:{}", i == 0 ? "" : ",", i, peers.back());
    }
    for (std::size_t i = 0; i < 3; ++i)
      members_.push_back(std::make_unique<EtcdProcess>(fmt::format("m{}", i), peers[i], cluster));
    for (const auto& member : members_) member->launch();
    for (const auto& member : members_) member->wait();
  }
  EtcdProcess& member(std::size_t i) { return *members_[i]; }
  std::string address() const {
    return fmt::format("etcd://{},{},{}", members_[0]->member(), members_[1]->member(),
                       members_[2]->member());
  }

 private:
  std::vector<std::unique_ptr<EtcdProcess>> members_;
};

}  // namespace ballot::test
