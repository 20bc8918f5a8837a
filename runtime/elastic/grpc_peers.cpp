// Peers over gRPC: puts the parts together and takes them apart in order.
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "proto/elastic.grpc.pb.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/grpc_ends.h"
#include "runtime/elastic/grpc_peers_checkpoint.h"
#include "runtime/elastic/grpc_peers_ends.h"
#include "runtime/elastic/grpc_peers_fetch.h"
#include "runtime/elastic/grpc_peers_links_in.h"
#include "runtime/elastic/grpc_peers_links_out.h"
#include "runtime/elastic/grpc_peers_reader.h"
#include "runtime/elastic/grpc_peers_serving.h"
#include "runtime/elastic/peer_frames_requests.h"

namespace ballot {
namespace {

// A cancelled call ends soon, whatever the other side does. What does not holds what it needs
// itself.
constexpr Duration kLongestCancel = std::chrono::seconds(5);

using RawService =
    wire::ElasticPeers::WithRawCallbackMethod_Link<wire::ElasticPeers::WithRawCallbackMethod_Fetch<
        wire::ElasticPeers::WithRawCallbackMethod_Checkpoint<wire::ElasticPeers::Service>>>;

class Service final : public RawService {
 public:
  Service(LinksIn& links, ServingCalls& calls) : links_(links), calls_(calls) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Link(
      grpc::CallbackServerContext* context) override {
    return links_.take(context);
  }
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Fetch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override {
    return calls_.fetch(context, request);
  }
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Checkpoint(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request) override {
    return calls_.checkpoint(context, request);
  }

 private:
  LinksIn& links_;
  ServingCalls& calls_;
};

class GrpcPeers final : public Peers {
 public:
  GrpcPeers(const PeersOptions& options, PeerHandlers handlers)
      : hub_(std::make_shared<PeersHub>(options, std::move(handlers),
                                        member_token(options.access.secret, options.run))),
        links_in_(std::make_shared<LinksIn>(hub_)),
        serving_(hub_),
        service_(*links_in_, serving_),
        links_out_(hub_),
        fetcher_(hub_) {
    NetworkAddress at = listen_address(options);
    const auto credentials = make_server_credentials(options.access);
    grpc::ServerBuilder builder;
    set_peer_limits(options, builder);
    int port = 0;
    builder.AddListeningPort(at.text(), credentials, &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      server_.reset();
      const std::string why = why_not_listen(at);
      if (why.empty())
        throw ConfigError(
            "cannot listen for peers at {}: gRPC refuses the address or the TLS files", at.text());
      throw TransportError("cannot listen for peers at {}: {}", at.text(), why);
    }
    at.port = static_cast<std::uint16_t>(port);
    address_ = at.text();
    hub_->port = at.port;
  }

  ~GrpcPeers() override {
    {
      const std::lock_guard lock(hub_->mutex);
      hub_->ending = true;
      for (FrameReader* reader : hub_->readers) reader->cancel();
    }
    links_out_.stop();
    fetcher_.stop();
    links_in_->close();
    serving_.stop();
    hub_->events.stop();
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    std::unique_lock lock(hub_->mutex);
    const bool ended = hub_->changed.wait_for(
        lock, kLongestCancel, [&] { return hub_->streams == 0 && hub_->readers.empty(); });
    if (!ended)
      log_warning("{} streams to peers have not ended {} s after they were cut", hub_->streams,
                  seconds(kLongestCancel));
  }

  std::string address() const override { return address_; }

  void open_links(const TermRecord& record, const Identity& me) override {
    links_in_->close_before(record.term);
    links_out_.open(record, me);
  }
  void close_links() override {
    links_out_.close();
    links_in_->close();
  }

  void send(const Identity& to, std::int64_t term, const BallotFrame& frame,
            std::shared_ptr<const BallotData> data) override {
    links_out_.send(to, term, make_frame(frame, std::move(data)));
  }
  void send(const Identity& to, std::int64_t term,
            std::shared_ptr<const VerdictFrame> frame) override {
    links_out_.send(to, term, make_frame(std::move(frame)));
  }

  void fetch(const Source& source, const Fetch& fetch, Deadline deadline) override {
    fetcher_.fetch(source, fetch, deadline);
  }
  std::string download(const Source& source, const std::string& folder,
                       Deadline deadline) override {
    const std::shared_ptr<PeersHub> hub = hub_;  // outlives this, if it ends meanwhile
    return copy_checkpoint(hub, source, folder, deadline);
  }

  PeersTraffic traffic() const override {
    PeersTraffic traffic;
    traffic.sent = hub_->sent;
    traffic.received = hub_->received;
    traffic.fetched = hub_->fetched;
    traffic.downloaded = hub_->downloaded;
    traffic.refused_frames = hub_->refused_frames;
    traffic.refused_calls = hub_->refused_calls;
    return traffic;
  }

 private:
  const std::shared_ptr<PeersHub> hub_;
  const std::shared_ptr<LinksIn> links_in_;
  ServingCalls serving_;
  Service service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  LinksOut links_out_;
  PeerFetcher fetcher_;
};

void check(const PeersOptions& options) {
  if (options.run.empty() || options.run.size() > kMostRequestTextBytes)
    throw ConfigError("a run's name of {} bytes, expected 1 to {}", options.run.size(),
                      kMostRequestTextBytes);
  if (options.keepalive < std::chrono::seconds(1))
    throw ConfigError("keepalive of {} s between peers, expected 1 or more",
                      seconds(options.keepalive));
  if (options.hello_pause <= Duration::zero() || options.link_patience <= Duration::zero())
    throw ConfigError("hello_pause = {} s, link_patience = {} s: expected more than 0",
                      seconds(options.hello_pause), seconds(options.link_patience));
}

}  // namespace

std::unique_ptr<Peers> make_peers(const PeersOptions& options, PeerHandlers handlers) {
  check(options);
  prepare_grpc_process();
  return std::make_unique<GrpcPeers>(options, std::move(handlers));
}

}  // namespace ballot
