#include "runtime/elastic/grpc_peers_links_in.h"

#include <utility>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "runtime/coordinator/convert.h"  // printable
#include "runtime/coordinator/grpc_ends.h"
#include "runtime/elastic/grpc_peers_ends.h"
#include "runtime/elastic/peer_frames_requests.h"

namespace ballot {
namespace {

constexpr int kMostCalls = 2 * kMostPeers;

grpc::Status not_yet(const char* why) {
  return {grpc::StatusCode::ABORTED, why};
}
grpc::Status refused(const std::string& why) {
  return {grpc::StatusCode::FAILED_PRECONDITION, why};
}

}  // namespace

// Holds itself until gRPC has done with it.
class LinksIn::Link final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                            public std::enable_shared_from_this<Link> {
 public:
  Link(std::shared_ptr<LinksIn> links, grpc::CallbackServerContext* context)
      : links_(std::move(links)),
        hub_(links_->hub_),
        context_(context),
        who_(context->peer()),
        assembler_(kLinkKinds, hub_->options.most_frame_bytes) {}

  const Hello& hello() const { return hello_; }

  void begin(std::optional<grpc::Status> denied) {
    self_ = shared_from_this();
    if (!denied) denied = read_hello();
    if (denied) return end(*denied);
    post([](Link& self) { self.ask(); });
  }
  void end(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = true;
    status_ = status;
    if (!writing_) Finish(status_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return at_the_end();
    std::optional<PeerFrame> frame;
    try {
      const ReceivedMessage message(read_);
      hub_->received += message.bytes();
      frame = assembler_.add(message.parts());
    } catch (const TransportError& error) {
      hub_->refuse_frame(Refusal::malformed, name(), error.what());
      return end({grpc::StatusCode::INVALID_ARGUMENT, printable(error.what(), 1000)});
    } catch (const std::exception& error) {  // no memory
      log_error("a frame of {}: {}", name(), describe_failure(error).message);
      return end({grpc::StatusCode::INTERNAL, "see the log of this worker"});
    }
    if (!frame) return read_next();
    post([owned = std::make_shared<PeerFrame>(std::move(*frame))](Link& self) {
      self.hand_out(std::move(*owned));
      self.read_next();
    });
  }
  void OnWriteDone(bool) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (ended_) Finish(status_);
  }
  void OnCancel() override { end({grpc::StatusCode::CANCELLED, "cancelled"}); }
  void OnDone() override {
    links_->left(this);
    self_.reset();  // may be the last
  }

 private:
  std::string name() const {
    return fmt::format("worker {} ({}) at {}", hello_.identity.worker, hello_.identity.incarnation,
                       who_);
  }
  std::optional<grpc::Status> read_hello() {
    const auto found = context_->client_metadata().find(kLinkHelloKey);
    try {
      if (found == context_->client_metadata().end())
        throw TransportError("a link without a hello");
      hello_ = decode_hello(std::as_bytes(std::span(found->second.data(), found->second.size())));
    } catch (const TransportError& error) {
      hub_->refuse_call(Refusal::malformed, who_, error.what());
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, printable(error.what(), 1000));
    }
    if (hello_.run == hub_->options.run) return std::nullopt;
    const std::string why = fmt::format("a hello of run \"{}\", expected \"{}\"",
                                        printable(hello_.run), hub_->options.run);
    hub_->refuse_call(Refusal::join, who_, why);
    return refused(why);
  }
  // A handler that throws ends the link.
  template <class Event>
  void post(Event event) {
    hub_->events.post([self = shared_from_this(), event = std::move(event)] {
      try {
        event(*self);
      } catch (const std::exception&) {
        self->end({grpc::StatusCode::INTERNAL, "see the log of this worker"});
        throw;
      }
    });
  }
  bool is_ended() {
    const std::lock_guard lock(mutex_);
    return ended_;
  }
  void read_next() {
    const std::lock_guard lock(mutex_);
    if (!ended_) StartRead(&read_);
  }

  // On the handlers' thread.
  void ask() {
    if (is_ended()) return;
    const std::int64_t epoch = [&] {
      const std::lock_guard lock(hub_->mutex);
      return links_->epoch_;
    }();
    switch (hub_->handlers.answer(hello_)) {
      case LinkAnswer::not_yet:
        return end(not_yet("that term has not arrived here yet"));
      case LinkAnswer::refuse:
        return end(
            refused(fmt::format("worker {} ({}) has no place in term {} here",
                                hello_.identity.worker, hello_.identity.incarnation, hello_.term)));
      case LinkAnswer::accept:
        break;
    }
    if (!links_->enter(shared_from_this(), epoch))
      return end(not_yet("links were closed meanwhile"));
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    answer_ = to_buffer(who_);
    writing_ = true;
    StartWrite(&answer_);
    StartRead(&read_);
  }
  void hand_out(PeerFrame&& frame) {
    if (is_ended()) return;
    if (auto* ballot = std::get_if<BallotFrame>(&frame))
      hub_->handlers.ballot(hello_, std::move(*ballot));
    else if (auto* verdict = std::get_if<VerdictFrame>(&frame))
      hub_->handlers.verdict(hello_, std::move(*verdict));
  }
  void at_the_end() {
    // A broken connection cuts a frame, a peer that ends its stream does not.
    if (!assembler_.between_frames() && !context_->IsCancelled() && !is_ended())
      hub_->refuse_frame(Refusal::malformed, name(), "a stream that ends within a frame");
    end(grpc::Status::OK);
  }

  const std::shared_ptr<LinksIn> links_;
  const std::shared_ptr<PeersHub> hub_;
  grpc::CallbackServerContext* const context_;  // gRPC's until this is finished
  const std::string who_;
  Hello hello_;
  FrameAssembler assembler_;
  grpc::ByteBuffer read_, answer_;
  std::mutex mutex_;
  bool writing_ = false, ended_ = false;
  grpc::Status status_;
  std::shared_ptr<Link> self_;
};

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* LinksIn::take(
    grpc::CallbackServerContext* context) {
  const auto link = std::make_shared<Link>(shared_from_this(), context);
  std::optional<grpc::Status> denied = why_denied(*context, *hub_);
  {
    const std::lock_guard lock(hub_->mutex);
    if (++calls_ > kMostCalls && !denied)
      denied = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many links");
    if (hub_->ending) denied = grpc::Status(grpc::StatusCode::UNAVAILABLE, "this worker ends");
  }
  if (denied && denied->error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED)
    hub_->refuse_call(Refusal::too_many, context->peer(), denied->error_message());
  link->begin(denied);
  return link.get();
}

// A link takes the place of an older one of its worker.
bool LinksIn::enter(const std::shared_ptr<Link>& link, std::int64_t epoch) {
  std::shared_ptr<Link> replaced;
  {
    const std::lock_guard lock(hub_->mutex);
    if (hub_->ending || epoch != epoch_) return false;
    replaced = std::exchange(accepted_[link->hello().identity.worker], link);
  }
  if (replaced != nullptr) replaced->end(not_yet("replaced by a newer link"));
  return true;
}

void LinksIn::left(Link* link) {
  std::shared_ptr<Link> gone;  // destroyed outside the mutex
  const std::lock_guard lock(hub_->mutex);
  --calls_;
  const auto found = accepted_.find(link->hello().identity.worker);
  if (found == accepted_.end() || found->second.get() != link) return;
  gone = std::move(found->second);
  accepted_.erase(found);
}

void LinksIn::close() {
  close_before(INT64_MAX);
}

void LinksIn::close_before(std::int64_t term) {
  std::vector<std::shared_ptr<Link>> closed;
  {
    const std::lock_guard lock(hub_->mutex);
    if (term == INT64_MAX) ++epoch_;
    for (const auto& [worker, link] : accepted_)
      if (link->hello().term < term) closed.push_back(link);
  }
  for (const auto& link : closed) link->end(not_yet("the term's links are closed here"));
}

}  // namespace ballot
