// Ranks over grpc as threads of one process, each with a transport of its own on loopback sockets.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "collectives/transport/grpc_transport.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot::test {

// Of a port that nobody listens at just now.
inline std::string free_rendezvous() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  require(bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0, "no free port");
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

inline GrpcOptions grpc_options(int rank, int size, const std::string& rendezvous) {
  GrpcOptions options;
  options.rank = rank;
  options.size = size;
  options.rendezvous = rendezvous;
  options.token = "secret of the tests";
  options.connect = std::chrono::seconds(30);
  return options;
}

// Runs body(rank) on `size` threads, waits for all and rethrows the first failure (by time).
inline void run_ranks(int size, const std::function<void(int rank)>& body) {
  std::mutex mutex;
  std::exception_ptr first_failure;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      set_thread_count(1);
      try {
        body(rank);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first_failure) first_failure = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (first_failure) std::rethrow_exception(first_failure);
}

// Runs body(transport) on `size` ranks; `change` sets further options.
inline void run_grpc(int size, const std::function<void(GrpcTransport&)>& body,
                     const std::function<void(GrpcOptions&)>& change = {}) {
  const std::string rendezvous = free_rendezvous();
  run_ranks(size, [&](int rank) {
    GrpcOptions options = grpc_options(rank, size, rendezvous);
    if (change) change(options);
    const auto transport = make_grpc_transport(options);
    body(*transport);
  });
}

}  // namespace ballot::test
