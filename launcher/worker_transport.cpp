#include "launcher/worker_transport.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>

#include "collectives/transport/loopback_transport.h"
#include "collectives/transport/mpi_transport.h"
#include "collectives/transport/nccl_transport.h"
#include "core/error.h"
#include "core/log.h"
#include "core/parallel.h"
#include "launcher/environment.h"

namespace ballot {
namespace {

using namespace std::chrono_literals;

constexpr int kMostThreads = 64;     // loopback is for tests and for looking at kernels
constexpr Duration kMeeting = 2min;  // until all workers have joined NCCL

int run_on_loopback(int workers, const std::function<int(Transport&)>& body) {
  std::atomic<int> exit_code = 0;
  run_loopback(workers, [&](Transport& transport) {
    const int code = body(transport);
    int before = exit_code;
    while (before < code && !exit_code.compare_exchange_weak(before, code)) {
    }
  });
  return exit_code;
}

int run_on_mpi(const std::function<int(Transport&)>& body) {
  const MpiSession session;
  const std::unique_ptr<Transport> world = session.world();
  try {
    return body(*world);
  } catch (const std::exception& failure) {
    // The others wait for this rank: end the job rather than let them run into their deadlines.
    const Failure described = describe_failure(failure);
    log_error("{}", described.message);
    session.abort(static_cast<int>(described.exit_code));
  }
}

// Others learn of a failure here by the end of this rank's streams.
int run_on_grpc(const TransportChoice& choice, const WorkerPlace& place,
                const std::function<int(Transport&)>& body) {
  const auto address = process_environment("MASTER_ADDR"),
             port = process_environment("MASTER_PORT");
  if (!address || !port)
    throw ConfigError("transport grpc: {} is not set; worker 0 listens at MASTER_ADDR:MASTER_PORT",
                      address ? "MASTER_PORT" : "MASTER_ADDR");
  GrpcOptions options;
  options.rank = place.rank;
  options.size = place.size;
  options.rendezvous = address->find(':') == std::string::npos ? *address + ":" + *port
                                                               : "[" + *address + "]:" + *port;
  options.token = process_environment("BALLOT_TOKEN").value_or("");
  options.tls = choice.tls;
  options.insecure = choice.insecure;
  const auto transport = make_grpc_transport(options);
  return body(*transport);
}

// What the body sees is NCCL; `control` carries what NCCL does not.
std::function<int(Transport&)> over_nccl(const std::function<int(Transport&)>& body,
                                         const std::string& device_name,
                                         std::optional<int> local_rank) {
  return [=](Transport& control) {
    const Device device = find_device(device_name, local_rank.value_or(control.rank()));
    const auto nccl = make_nccl_transport(control, device, Deadline::in(kMeeting));
    return body(*nccl);
  };
}

// nccl stands on what this process was started for.
std::string find_name(const std::string& asked, const WorkerPlace& place) {
  if (asked == "auto" || asked == "nccl")
    return place.under_mpi ? "mpi" : place.size > 1 ? "grpc" : "loopback";
  if (asked == "mpi" && !place.under_mpi)
    throw ConfigError(
        "--transport mpi: mpirun did not start this process; expected such as "
        "mpirun -n 4 ballot ...");
  if (asked == "loopback" && place.size > 1)
    throw ConfigError(
        "--transport loopback: this process is worker {} of {}, and loopback reaches threads of "
        "one "
        "process only",
        place.rank, place.size);
  return asked;
}

}  // namespace

void add_transport_flags(CLI::App& command, TransportChoice& choice, bool trains) {
  std::vector<std::string> names = {"auto", "loopback", "mpi", "grpc"};
  if (trains) names.push_back("nccl");
  command
      .add_option("--transport", choice.name,
                  "between the workers (auto: as this process was started; nccl: the same, and "
                  "votes from GPU to GPU)")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  command.add_option("--tls-ca", choice.tls.ca, "grpc: PEM file of the authority of all workers");
  command.add_option("--tls-certificate", choice.tls.certificate, "grpc: this worker's PEM file");
  command.add_option("--tls-key", choice.tls.key, "grpc: its private key");
  command.add_option("--tls-name", choice.tls.name,
                     "grpc: whom the others' certificates are for (default: their addresses)");
  command.add_flag("--insecure", choice.insecure,
                   "grpc: without TLS beyond this machine's loopback addresses");
}

void add_workers_flag(CLI::App& command, TransportChoice& choice) {
  command
      .add_option("--workers", choice.workers,
                  fmt::format("loopback: workers, as threads of this process (default {})",
                              choice.default_workers))
      ->check(CLI::Range(1, kMostThreads));
}

int run_on_transport(const TransportChoice& choice,
                     const std::function<int(Transport&)>& asked_body) {
  const WorkerPlace place = find_place();
  const std::function<int(Transport&)> body =
      choice.name == "nccl" ? over_nccl(asked_body, choice.device, find_local_rank()) : asked_body;
  const std::string name = find_name(choice.name, place);
  if (name != "grpc" && (choice.tls.given() || choice.insecure))
    throw ConfigError("--{}: the transport is {}; only grpc has it",
                      choice.insecure ? "insecure" : "tls-...", name);
  if (name != "loopback" && choice.workers > 0)
    throw ConfigError("--workers {}: with {} the number of workers is that of its processes ({})",
                      choice.workers, name, place.size);
  if (place.size > 1 && !process_environment("BALLOT_LAUNCHER"))
    set_log_name(fmt::format("worker {}", place.rank));
  if (name == "loopback") {
    set_thread_count(asked_threads().value_or(default_threads(1)));
    return run_on_loopback(choice.workers > 0 ? choice.workers : choice.default_workers, body);
  }
  set_thread_count(asked_threads().value_or(default_threads(place.local_size)));
  if (name == "mpi") return run_on_mpi(body);
  return run_on_grpc(choice, place, body);
}

}  // namespace ballot
