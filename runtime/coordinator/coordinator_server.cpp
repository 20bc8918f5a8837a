#include "runtime/coordinator/coordinator_server.h"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <cerrno>
#include <cstring>

#include <thread>

#include "collectives/transport/network_address.h"
#include "core/error.h"
#include "core/log.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/coordinator_service.h"
#include "runtime/coordinator/grpc_ends.h"
#include "runtime/coordinator/reflection_service.h"

namespace ballot {
namespace {

constexpr const char* kServiceName = "ballot.wire.Coordinator";
constexpr auto kHealthEvery = std::chrono::milliseconds(200);
// For what is on its way to callers when the coordinator ends.
constexpr auto kLinger = std::chrono::seconds(2);

void require_access(const NetworkAddress& at, const CoordinatorAccess& access) {
  if (at.loopback() || access.tls.given()) return;
  if (access.secret.empty() && access.insecure)
    log_warning(
        "listening at {} with neither TLS nor a token: whoever reaches it may join, and "
        "send workers away",
        at.text());
  else if (access.secret.empty())
    throw ConfigError(
        "listening at {} with neither TLS nor a token: expected --tls-ca, --tls-certificate and "
        "--tls-key, or BALLOT_TOKEN in the environment, or a loopback address, or --insecure",
        at.text());
  else
    log_warning(
        "listening at {} with a token but without TLS: whoever can listen on the way can "
        "show it too",
        at.text());
}

}  // namespace

struct CoordinatorServer::Connections {
  std::unique_ptr<CoordinatorService> service;
  ReflectionService reflection{
      {kServiceName, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}};
  std::unique_ptr<grpc::Server> server;
  std::thread health;
  std::mutex mutex;
  std::condition_variable changed;
  bool ending = false;

  // Health follows the desk.
  void follow(const CoordinatorDesk& desk) {
    std::unique_lock lock(mutex);
    bool told = false, first = true;
    while (!ending) {
      const bool serving = desk.serving();
      if (first || serving != told) {
        first = false;
        told = serving;
        server->GetHealthCheckService()->SetServingStatus("", serving);
        server->GetHealthCheckService()->SetServingStatus(kServiceName, serving);
      }
      changed.wait_for(lock, kHealthEvery, [&] { return ending; });
    }
    server->GetHealthCheckService()->SetServingStatus(false);
  }
};

CoordinatorServer::CoordinatorServer(CoordinatorServerOptions options,
                                     std::unique_ptr<RowStore> store, const Clock& clock)
    : options_(std::move(options)), refusals_(clock) {
  const CoordinatorAccess& access = options_.access;
  NetworkAddress at = resolve(parse_listen(options_.listen, "the address to listen at"));
  require_access(at, access);
  prepare_grpc_process();
  const auto credentials = make_server_credentials(access);
  desk_ = std::make_unique<CoordinatorDesk>(options_.desk, std::move(store), refusals_, clock);
  connections_ = std::make_unique<Connections>();
  connections_->service = make_coordinator_service(
      *desk_, refusals_, member_token(access.secret, options_.desk.coordinator.run),
      reader_token(access.secret));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  set_server_limits(builder);
  int port = 0;
  builder.AddListeningPort(at.text(), credentials, &port);
  builder.RegisterService(connections_->service.get());
  builder.RegisterService(&connections_->reflection);
  connections_->server = builder.BuildAndStart();
  grpc::EnableDefaultHealthCheckService(false);  // of this server alone
  if (connections_->server == nullptr || port == 0) {
    connections_->server.reset();
    const std::string why = why_not_listen(at);
    if (!why.empty() && why == std::strerror(EADDRINUSE))  // whoever has it may let go of it
      throw TransportError("cannot listen at {}: {}", at.text(), why);
    throw ConfigError("cannot listen at {}: {}", at.text(), why.empty() ? "unknown" : why);
  }
  at.port = static_cast<std::uint16_t>(port);
  address_ = at.text();
  on_failed_handshake(
      [this](const std::string& why) { refusals_.add(Refusal::tls, "somebody", why); });
  connections_->health = std::thread([this] { connections_->follow(*desk_); });
  log_info("the coordinator of run \"{}\" listens at {}, {}, {}", options_.desk.coordinator.run,
           address_, access.tls.given() ? "with mutual TLS" : "without TLS",
           access.secret.empty() ? "without a token" : "with a token");
}

CoordinatorServer::~CoordinatorServer() {
  on_failed_handshake({});
  stop("the coordinator ends");
  if (connections_ == nullptr || connections_->server == nullptr) return;
  // What the desk says at its end leaves before the connections do.
  const bool ended = [&] {
    try {
      return desk_->wait(Deadline::in(std::chrono::seconds(35)));
    } catch (const std::exception&) {
      return true;  // told by wait() to whoever asked, and logged
    }
  }();
  if (!ended) log_error("the coordinator's own thread has not ended, its connections are cut");
  {
    const std::lock_guard lock(connections_->mutex);
    connections_->ending = true;
    connections_->changed.notify_all();
  }
  connections_->health.join();
  connections_->server->Shutdown(std::chrono::system_clock::now() + kLinger);
  connections_->server.reset();
}

void CoordinatorServer::stop(const std::string& why) {
  if (desk_ != nullptr) desk_->stop(why);
}

bool CoordinatorServer::wait(Deadline deadline) {
  return desk_->wait(deadline);
}

}  // namespace ballot
