#include "runtime/coordinator/coordinator_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <cstdlib>
#include <random>

#include "collectives/transport/network_address.h"
#include "core/error.h"
#include "core/log.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/grpc_ends.h"
#include "runtime/coordinator/unary_call.h"

namespace ballot {
namespace {

constexpr Duration kOneCall = std::chrono::seconds(10);
constexpr Duration kLongestCancel = std::chrono::seconds(60);

std::uint64_t draw() {
  std::random_device random;
  return (static_cast<std::uint64_t>(random()) << 32) | random();
}

// Up to a quarter shorter than `pause`, so that many workers do not come back as one.
Duration scatter(Duration pause) {
  return pause - Duration(static_cast<std::int64_t>(draw() % 1024) * pause.count() / 4096);
}

}  // namespace

// One stream of pulses and orders. Destroyed only after `done`.
class CoordinatorClient::Stream final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Stream(CoordinatorClient& client, const std::shared_ptr<grpc::Channel>& channel,
         const std::string& token)
      : client_(client), stub_(channel) {
    if (!token.empty()) context_.AddMetadata(kTokenKey, token);
    stub_.PrepareBidiStreamingCall(&context_, "/ballot.wire.Coordinator/Pulses", {}, this);
    AddHold();  // for writes from the client's thread
    StartRead(&read_);
    StartCall();
  }

  // All of these with the client's mutex held.
  bool idle() const { return !writing_ && !closed_; }
  bool done() const { return done_; }
  bool answered() const { return answered_; }
  const grpc::Status& status() const { return status_; }
  TimePoint heard() const { return heard_; }
  void send(const Pulse& pulse) {
    write_ = to_buffer(encode(pulse));
    writing_ = true;
    StartWrite(&write_);
  }
  void close() {
    if (closed_) return;
    closed_ = true;
    context_.TryCancel();
    if (!writing_) RemoveHold();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return fail();
    try {
      const std::string bytes = to_bytes(read_);
      read_.Clear();
      const Order order = decode_order(std::as_bytes(std::span(bytes)));
      {
        const std::lock_guard lock(client_.mutex_);
        answered_ = true;
        heard_ = std::chrono::steady_clock::now();
      }
      client_.take(order);
    } catch (const std::exception& error) {
      log_warning("an order of the coordinator at {}: {}", client_.options_.address,
                  describe_failure(error).message);
      return fail();
    }
    StartRead(&read_);
  }
  void OnWriteDone(bool) override {
    const std::lock_guard lock(client_.mutex_);
    writing_ = false;
    if (closed_) RemoveHold();
    client_.changed_.notify_all();
  }
  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(client_.mutex_);
    status_ = status;
    done_ = true;
    client_.changed_.notify_all();
  }

 private:
  void fail() {
    const std::lock_guard lock(client_.mutex_);
    close();
  }

  CoordinatorClient& client_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer read_, write_;
  bool writing_ = false, closed_ = false, done_ = false, answered_ = false;
  TimePoint heard_ = std::chrono::steady_clock::now();
  grpc::Status status_;
};

CoordinatorClient::CoordinatorClient(CoordinatorClientOptions options)
    : options_(std::move(options)) {
  for (std::size_t at = 0; at <= options_.address.size();) {
    const std::size_t end = std::min(options_.address.find(',', at), options_.address.size());
    addresses_.push_back(options_.address.substr(at, end - at));
    parse_host_port(addresses_.back(), "the coordinator's address");
    at = end + 1;
  }
  prepare_grpc_process();
  make_server_credentials(options_.access);  // reads the TLS files
  thread_ = std::thread([this] { run(); });
}

CoordinatorClient::~CoordinatorClient() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

Identity CoordinatorClient::join(Join join, Deadline deadline) {
  join.run = options_.run;
  if (join.nonce == 0) join.nonce = draw();
  const std::string request = encode(join);
  const std::string token = member_token(options_.access.secret, options_.run);
  std::string last = "not asked yet";
  std::size_t turn = [this] {
    const std::lock_guard lock(mutex_);
    return turn_;
  }();
  for (Duration pause = options_.first_pause;; pause = std::min(2 * pause, options_.last_pause)) {
    const std::string& asked = addresses_[turn % addresses_.size()];
    try {
      const Deadline one{std::min(deadline.at, Deadline::in(kOneCall).at)};
      const UnaryAnswer answer = call_unary(make_channel(asked, options_.access),
                                            "/ballot.wire.Coordinator/Join", token, request, one);
      if (answer.status.ok()) return decode_join_answer(std::as_bytes(std::span(answer.bytes)));
      throw_unless_worth_trying(answer.status, asked);
      last = describe(answer.status);
    } catch (const TransportError& error) {
      if (std::string_view(error.what()).find("TLS") != std::string_view::npos) throw;
      last = error.what();  // a name that does not resolve (yet)
    }
    std::unique_lock lock(mutex_);
    turn_ = ++turn;  // for the stream as well
    const TimePoint again = std::chrono::steady_clock::now() + scatter(pause);
    if (again >= deadline.at)
      throw Timeout("worker {} waited for the coordinator at {} past its deadline: {}", join.worker,
                    options_.address, last);
    changed_.wait_until(lock, again, [&] { return ending_; });
    require(!ending_, "the client of the coordinator at {} ends while it joins", options_.address);
  }
}

void CoordinatorClient::tell(Pulse pulse) {
  const std::lock_guard lock(mutex_);
  if (told_ && told_->identity != pulse.identity) heard_.reset();
  told_ = std::move(pulse);
  news_ = true;
  changed_.notify_all();
}

std::optional<CoordinatorClient::Heard> CoordinatorClient::latest() const {
  const std::lock_guard lock(mutex_);
  return heard_;
}

std::optional<CoordinatorClient::Heard> CoordinatorClient::wait_newer(std::int64_t seen,
                                                                      Deadline deadline) const {
  std::unique_lock lock(mutex_);
  const bool there = changed_.wait_until(
      lock, deadline.at, [&] { return ending_ || (heard_ && heard_->number != seen); });
  return there && !ending_ ? heard_ : std::nullopt;
}

std::string CoordinatorClient::trouble() const {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

void CoordinatorClient::take(const Order& order) {
  const std::lock_guard lock(mutex_);
  if (!told_ || order.incarnation != told_->identity.incarnation) return;
  heard_ = Heard{order, ++orders_, std::chrono::steady_clock::now()};
  if (!trouble_.empty()) log_info("the coordinator at {} answers again", address());
  trouble_.clear();
  said_.clear();
  changed_.notify_all();
}

// Said once of an address, until it changes or is over.
void CoordinatorClient::set_trouble(const std::string& asked, std::string why) {
  trouble_ = std::move(why);
  std::string& said = said_[asked];
  if (said == trouble_) return;
  said = trouble_;
  log_warning("no orders from the coordinator at {}: {}; going on without", asked, trouble_);
}

Duration CoordinatorClient::interval() const {
  const bool waits = told_->state != WorkerState::voting || told_->leaving;
  return std::min(options_.heartbeat, waits ? options_.urgent : options_.heartbeat);
}

void CoordinatorClient::run() {
  std::unique_lock lock(mutex_);
  Duration pause = options_.first_pause;
  while (true) {
    changed_.wait(lock, [&] { return ending_ || told_; });
    if (ending_) return;
    const std::int64_t orders = orders_;
    const Identity identity = told_->identity;
    try {
      serve_stream(lock);
    } catch (const std::exception& error) {
      if (!lock.owns_lock()) lock.lock();
      set_trouble(address(), describe_failure(error).message);
    }
    if (orders_ != orders || told_->identity != identity)
      pause = options_.first_pause;
    else
      ++turn_;
    if (told_->identity != identity) continue;  // the new one gets a stream of its own at once
    changed_.wait_for(lock, scatter(pause), [&] { return ending_ || told_->identity != identity; });
    pause = std::min(2 * pause, options_.last_pause);
  }
}

// Until the stream ends, is given up, or another incarnation is told of.
void CoordinatorClient::serve_stream(std::unique_lock<std::mutex>& lock) {
  const Identity identity = told_->identity;
  const std::string asked = address();
  lock.unlock();
  const auto channel = make_channel(asked, options_.access);
  Stream stream(*this, channel, member_token(options_.access.secret, options_.run));
  lock.lock();
  news_ = true;
  TimePoint sent{};
  std::string why;
  while (!stream.done() && !ending_ && told_->identity == identity) {
    const TimePoint now = std::chrono::steady_clock::now();
    if (now - stream.heard() > options_.silence) {
      why = fmt::format("none for {:.1f} s", seconds(now - stream.heard()));
      break;
    }
    const TimePoint due = news_ ? now : sent + interval();
    if (stream.idle() && now >= due) {
      Pulse pulse = *told_;
      pulse.sequence = ++sequence_;
      news_ = false;
      sent = now;
      stream.send(pulse);
      continue;
    }
    const TimePoint wake =
        std::min(stream.idle() ? due : TimePoint::max(), stream.heard() + options_.silence);
    changed_.wait_until(lock, wake);
  }
  stream.close();
  // A cancelled call ends soon, whatever the other side does; until then gRPC uses the stream.
  if (!changed_.wait_for(lock, kLongestCancel, [&] { return stream.done(); })) {
    log_error("gRPC does not end a cancelled call within {} s: giving up", seconds(kLongestCancel));
    std::abort();
  }
  if (ending_ || told_->identity != identity) return;
  set_trouble(asked, why.empty() ? describe(stream.status()) : why);
}

ServiceStatus fetch_status(const std::string& address, const CoordinatorAccess& access,
                           Duration patience) {
  prepare_grpc_process();
  const UnaryAnswer answer =
      call_unary(make_channel(address, access), "/ballot.wire.Coordinator/Status",
                 reader_token(access.secret), "", Deadline::in(patience));
  throw_unless_worth_trying(answer.status, address);
  if (!answer.status.ok())
    throw Timeout("no answer from a coordinator at {} within {:.1f} s: {}", address,
                  seconds(patience), describe(answer.status));
  return decode_status(std::as_bytes(std::span(answer.bytes)));
}

void expel_worker(const std::string& address, const std::string& run,
                  const CoordinatorAccess& access, std::int32_t worker, const std::string& reason,
                  Duration patience) {
  prepare_grpc_process();
  const UnaryAnswer answer = call_unary(
      make_channel(address, access), "/ballot.wire.Coordinator/Expel",
      member_token(access.secret, run), encode(Expulsion{worker, reason}), Deadline::in(patience));
  throw_unless_worth_trying(answer.status, address);
  if (!answer.status.ok())
    throw Timeout("no answer from a coordinator at {} within {:.1f} s: {}", address,
                  seconds(patience), describe(answer.status));
}

}  // namespace ballot
