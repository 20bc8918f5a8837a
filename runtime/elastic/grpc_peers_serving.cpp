#include "runtime/elastic/grpc_peers_serving.h"

#include <optional>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "runtime/coordinator/convert.h"  // printable
#include "runtime/coordinator/grpc_ends.h"
#include "runtime/elastic/grpc_peers_checkpoint.h"
#include "runtime/elastic/peer_frames_requests.h"

namespace ballot {
namespace {

constexpr std::size_t kMostServed = 8;  // at once
// A peer that takes no piece for so long is given up: it holds a thread.
constexpr Duration kOnePiece = std::chrono::seconds(60);

}  // namespace

// Holds itself until gRPC has done with it. One thread writes.
class ServingCalls::Call final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                                 public std::enable_shared_from_this<Call> {
 public:
  Call(std::shared_ptr<PeersHub> hub, grpc::CallbackServerContext* context)
      : hub_(std::move(hub)),
        who_(context->peer()),
        from_(parse_grpc_peer(who_)),
        context_(context) {}

  const std::string& who() const { return who_; }
  void hold() { self_ = shared_from_this(); }

  // Waits until gRPC takes the next one. False once the call is over.
  bool write(OutgoingFrame frame) {
    PieceCutter cutter(std::move(frame), frames_++);
    while (!cutter.done()) {
      const OutgoingPiece piece = cutter.next();
      if (!write(to_message(piece, cutter.owner()))) return false;
      hub_->sent += piece.bytes;
    }
    return true;
  }
  void finish(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    if (std::exchange(ended_, true)) return;
    status_ = status;
    if (!writing_) Finish(status_);
    changed_.notify_all();
  }
  // gRPC does not end a call while it waits to write to its connection.
  void cut() {
    finish({grpc::StatusCode::UNAVAILABLE, "this worker ends"});
    ConnectionEnd end;
    {
      const std::lock_guard lock(mutex_);
      if (context_ != nullptr) context_->TryCancel();
      if (writing_) end = {hub_->port, from_.ip, from_.port};
    }
    if (end.local_port != 0) end_connection(end);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    broken_ = broken_ || !ok;
    if (ended_) Finish(status_);
    changed_.notify_all();
  }
  void OnCancel() override { finish({grpc::StatusCode::CANCELLED, "cancelled"}); }
  void OnDone() override {
    std::shared_ptr<Call> last;
    const std::lock_guard lock(mutex_);
    context_ = nullptr;
    last.swap(self_);
  }

 private:
  bool write(grpc::ByteBuffer message) {
    std::unique_lock lock(mutex_);
    if (ended_ || broken_) return false;
    message_ = std::move(message);
    writing_ = true;
    StartWrite(&message_);
    if (changed_.wait_for(lock, kOnePiece, [&] { return !writing_ || ended_; }))
      return !ended_ && !broken_;
    lock.unlock();
    log_warning("{} takes nothing for {} s, its call is cut", who_, seconds(kOnePiece));
    cut();
    return false;
  }
  const std::shared_ptr<PeersHub> hub_;
  const std::string who_;
  const NetworkAddress from_;
  std::mutex mutex_;
  std::condition_variable changed_;
  grpc::CallbackServerContext* context_;  // until it is done
  grpc::ByteBuffer message_;
  std::uint64_t frames_ = 0;
  bool writing_ = false, broken_ = false, ended_ = false;
  grpc::Status status_;
  std::shared_ptr<Call> self_;
};

namespace {

std::optional<grpc::Status> read_request(PeersHub& hub, const std::string& who,
                                         const grpc::CallbackServerContext& context,
                                         const grpc::ByteBuffer& request, std::string& bytes) {
  const auto refuse = [&](Refusal refusal, const std::string& why) {
    hub.refuse_call(refusal, who, why);
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, why);
  };
  // A caller that changes its mind before its request has left leaves none.
  if (!request.Valid() && context.IsCancelled())
    return grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
  if (!request.Valid()) return refuse(Refusal::malformed, "a call without a request");
  if (request.Length() > kMostPeerRequestBytes)
    return refuse(Refusal::too_large, fmt::format("a request of {} bytes, expected at most {}",
                                                  request.Length(), kMostPeerRequestBytes));
  grpc::ByteBuffer copy = request;
  try {
    bytes = to_bytes(copy);
  } catch (const TransportError& error) {  // compressed, and not what it says
    return refuse(Refusal::malformed, error.what());
  }
  return std::nullopt;
}

}  // namespace

ServingCalls::~ServingCalls() {
  stop();
}

void ServingCalls::stop() {
  std::list<Running> ending;
  {
    const std::lock_guard lock(hub_->mutex);
    stopping_ = true;
    ending.splice(ending.end(), running_);
  }
  for (Running& one : ending) one.call->cut();
  for (Running& one : ending) one.thread.join();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ServingCalls::begin(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    std::function<grpc::Status(Call& call, ConstBytes request)> serve) {
  const auto call = std::make_shared<Call>(hub_, context);
  call->hold();
  const auto deny = [&](const grpc::Status& status) {
    call->finish(status);
    return call.get();
  };
  if (const auto denied = why_denied(*context, *hub_)) return deny(*denied);
  std::string bytes;
  if (const auto refused = read_request(*hub_, call->who(), *context, *request, bytes))
    return deny(*refused);

  std::list<Running> done;  // joined outside the mutex
  std::unique_lock lock(hub_->mutex);
  for (auto at = running_.begin(); at != running_.end();) {
    const auto next = std::next(at);
    if (at->done) done.splice(done.end(), running_, at);
    at = next;
  }
  const bool too_many = running_.size() >= kMostServed;
  if (stopping_ || too_many) {
    lock.unlock();
    for (Running& one : done) one.thread.join();
    if (!too_many) return deny({grpc::StatusCode::UNAVAILABLE, "this worker ends"});
    hub_->refuse_call(Refusal::too_many, call->who(), "too many calls at once");
    return deny({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many calls at once"});
  }
  Running& mine = running_.emplace_back();
  mine.call = call;
  const auto serve_and_finish = [this, &mine, call, bytes, serve = std::move(serve)] {
    grpc::Status status;
    try {
      status = serve(*call, std::as_bytes(std::span(bytes)));
    } catch (const std::exception& error) {
      log_error("a call from {}: {}", call->who(), describe_failure(error).message);
      status = {grpc::StatusCode::INTERNAL, "see the log of this worker"};
    }
    call->finish(status);
    const std::lock_guard guard(hub_->mutex);
    mine.done = true;
  };
  try {
    mine.thread = std::thread(serve_and_finish);
  } catch (const std::system_error&) {
    running_.pop_back();
    call->finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "no thread for this call"});
  }
  lock.unlock();
  for (Running& one : done) one.thread.join();
  return call.get();
}

namespace {

// Takes a request apart and looks whose it is; what is wrong with it is counted.
template <class Decode>
std::optional<grpc::Status> why_refused(PeersHub& hub, const std::string& who,
                                        const Decode& decode) {
  try {
    const std::string run = decode();
    if (run == hub.options.run) return std::nullopt;
    const std::string why =
        fmt::format("a call of run \"{}\", expected \"{}\"", printable(run), hub.options.run);
    hub.refuse_call(Refusal::join, who, why);
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, why);
  } catch (const TransportError& error) {
    hub.refuse_call(Refusal::malformed, who, error.what());
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, printable(error.what(), 1000));
  }
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* ServingCalls::fetch(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return begin(context, request, [this](Call& call, ConstBytes bytes) -> grpc::Status {
    FetchRequest asked;
    if (const auto refused = why_refused(*hub_, call.who(), [&] {
          asked = decode_fetch(bytes);
          return asked.run;
        }))
      return *refused;
    FetchReply reply = hub_->handlers.serve(asked.fetch);
    const auto records = std::move(reply.records);
    const auto count = static_cast<std::uint32_t>(records.size());
    bool open = call.write(make_frame(ReplyFrame{std::move(reply), count}));
    for (const auto& record : records) open = open && call.write(make_frame(*record));
    return grpc::Status::OK;
  });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ServingCalls::checkpoint(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return begin(context, request, [this](Call& call, ConstBytes bytes) -> grpc::Status {
    if (const auto refused =
            why_refused(*hub_, call.who(), [&] { return decode_checkpoint_request(bytes); }))
      return *refused;
    const std::string folder = hub_->handlers.checkpoint();
    if (folder.empty()) return {grpc::StatusCode::NOT_FOUND, "there is no checkpoint here"};
    try {
      send_checkpoint(folder, [&](OutgoingFrame frame) { return call.write(std::move(frame)); });
    } catch (const WorldError& error) {
      log_warning("the checkpoint that {} asks for: {}", call.who(), error.what());
      return {grpc::StatusCode::DATA_LOSS, "its newest checkpoint cannot be read"};
    }
    return grpc::Status::OK;
  });
}

}  // namespace ballot
