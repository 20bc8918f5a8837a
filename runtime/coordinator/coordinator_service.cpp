#include "runtime/coordinator/coordinator_service.h"

#include <utility>

#include "collectives/transport/grpc_credentials.h"  // same_token
#include "core/error.h"
#include "core/log.h"
#include "runtime/coordinator/call_token.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/grpc_ends.h"

namespace ballot {
namespace {

constexpr Duration kLongestJoin = std::chrono::seconds(30);
// Before the caller's own deadline, so that it learns why.
constexpr Duration kAnswerBefore = std::chrono::milliseconds(300);

grpc::Status to_status(const CallEnd& end) {
  using Kind = CallEnd::Kind;
  const auto code = [&] {
    switch (end.kind) {
      case Kind::unavailable:
        return grpc::StatusCode::UNAVAILABLE;
      case Kind::refused:
        return grpc::StatusCode::FAILED_PRECONDITION;
      case Kind::malformed:
        return grpc::StatusCode::INVALID_ARGUMENT;
      case Kind::denied:
        return grpc::StatusCode::UNAUTHENTICATED;
      case Kind::too_many:
        return grpc::StatusCode::RESOURCE_EXHAUSTED;
      case Kind::replaced:
        return grpc::StatusCode::ABORTED;
      case Kind::sent_away:
        return grpc::StatusCode::PERMISSION_DENIED;
      case Kind::internal:
        return grpc::StatusCode::INTERNAL;
    }
    return grpc::StatusCode::INTERNAL;
  };
  return {code(), printable(end.text, 1000)};
}

Deadline deadline_of(const grpc::CallbackServerContext& context) {
  const auto left =
      std::chrono::duration_cast<Duration>(context.deadline() - std::chrono::system_clock::now());
  return Deadline::in(std::min(left - kAnswerBefore, kLongestJoin));
}

// What a handler does, with its door for exceptions: nothing, or why the call ends.
template <class Body>
std::optional<CallEnd> at_the_door(const std::string& who, const Body& body) {
  try {
    body();
    return std::nullopt;
  } catch (const std::exception& error) {
    log_error("a call from {}: {}", who, describe_failure(error).message);
    return CallEnd{CallEnd::Kind::internal, "internal error, see the coordinator's log"};
  }
}

// Takes a message apart; what is wrong with it is counted and ends the call.
template <class Decode>
auto decode(grpc::ByteBuffer& buffer, const std::string& who, Refusals& refusals,
            const Decode& body) -> std::variant<decltype(body(ConstBytes())), CallEnd> {
  if (buffer.Length() > kMostRequestBytes) {
    const std::string why = fmt::format("a message of {} bytes, expected at most {}",
                                        buffer.Length(), kMostRequestBytes);
    refusals.add(Refusal::too_large, who, why);
    return CallEnd{CallEnd::Kind::malformed, why};
  }
  try {
    const std::string bytes = to_bytes(buffer);
    buffer.Clear();
    return body(std::as_bytes(std::span(bytes)));
  } catch (const TransportError& error) {
    refusals.add(Refusal::malformed, who, error.what());
    return CallEnd{CallEnd::Kind::malformed, error.what()};
  }
}

// A worker's stream. Holds itself until gRPC has done with it.
class PulseReactor final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                           public PulseCall,
                           public std::enable_shared_from_this<PulseReactor> {
 public:
  PulseReactor(CoordinatorDesk& desk, Refusals& refusals, std::string who)
      : desk_(desk), refusals_(refusals), who_(std::move(who)) {}

  void open(const std::optional<CallEnd>& denied) {
    self_ = shared_from_this();
    if (denied) return end(*denied);
    desk_.opened(shared_from_this(), who_);
    take_next();
  }

  void answer(const Order& order) override {
    std::optional<CallEnd> failed = at_the_door(who_, [&] {
      const std::string bytes = encode(order);
      const std::lock_guard lock(mutex_);
      if (ended_) return;
      next_ = to_buffer(bytes);
      write_next();
    });
    if (failed) end(*failed);
  }
  void take_next() override {
    const std::lock_guard lock(mutex_);
    if (!ended_) StartRead(&read_);
  }
  void end(const CallEnd& why) override {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = true;
    status_ = to_status(why);
    if (!writing_) Finish(status_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return end({CallEnd::Kind::unavailable, "the worker has closed its stream"});
    const auto failed = at_the_door(who_, [&] {
      auto pulse = decode(read_, who_, refusals_, decode_pulse);
      if (const auto* why = std::get_if<CallEnd>(&pulse)) return end(*why);
      desk_.pulse(shared_from_this(), std::get<Pulse>(std::move(pulse)), who_);
    });
    if (failed) end(*failed);
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (ended_) return Finish(status_);
    if (ok)
      write_next();
    else {
      ended_ = true;
      Finish({grpc::StatusCode::UNAVAILABLE, "an order could not be written"});
    }
  }
  void OnCancel() override { end({CallEnd::Kind::unavailable, "cancelled"}); }
  void OnDone() override {
    desk_.closed(this);
    self_.reset();  // may be the last
  }

 private:
  // With the mutex held. Orders that come while one leaves replace each other.
  void write_next() {
    if (writing_ || !next_) return;
    writing_ = true;
    write_ = *std::exchange(next_, std::nullopt);
    StartWrite(&write_);
  }

  CoordinatorDesk& desk_;
  Refusals& refusals_;
  const std::string who_;
  grpc::ByteBuffer read_, write_;
  std::mutex mutex_;
  bool writing_ = false, ended_ = false;
  std::optional<grpc::ByteBuffer> next_;
  grpc::Status status_;
  std::shared_ptr<PulseReactor> self_;
};

// A call with one answer, given once, from any thread; the caller may be gone by then.
class OneAnswer {
 public:
  OneAnswer(grpc::ServerUnaryReactor* reactor, grpc::ByteBuffer* response)
      : reactor_(reactor), response_(response) {}
  void answer(const std::string& bytes) {
    *response_ = to_buffer(bytes);
    reactor_->Finish(grpc::Status::OK);
  }
  void end(const CallEnd& why) { reactor_->Finish(to_status(why)); }

 private:
  grpc::ServerUnaryReactor* reactor_;  // gRPC's until it is finished
  grpc::ByteBuffer* response_;
};

class Service final : public CoordinatorService {
 public:
  Service(CoordinatorDesk& desk, Refusals& refusals, std::string member_token,
          std::string reader_token)
      : desk_(desk),
        refusals_(refusals),
        member_token_(std::move(member_token)),
        reader_token_(std::move(reader_token)) {}

  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override {
    return unary(
        context, request, response, member_token_,
        [this, context](grpc::ByteBuffer& message, OneAnswer answer, const std::string& who) {
          auto join = decode(message, who, refusals_, decode_join);
          if (const auto* why = std::get_if<CallEnd>(&join)) return answer.end(*why);
          desk_.join(std::get<ballot::Join>(std::move(join)), who, deadline_of(*context),
                     [answer](const CoordinatorDesk::JoinOutcome& outcome) mutable {
                       if (const auto* why = std::get_if<CallEnd>(&outcome))
                         answer.end(*why);
                       else
                         answer.answer(encode(std::get<Identity>(outcome)));
                     });
        });
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Pulses(
      grpc::CallbackServerContext* context) override {
    const std::string who = context->peer();
    const auto reactor = std::make_shared<PulseReactor>(desk_, refusals_, who);
    reactor->open(check_token(*context, member_token_, who));
    return reactor.get();
  }

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override {
    return unary(context, request, response, reader_token_,
                 [this](grpc::ByteBuffer&, OneAnswer answer, const std::string&) {
                   desk_.status([answer](const ServiceStatus* status) mutable {
                     if (status == nullptr)
                       answer.end({CallEnd::Kind::unavailable, "the coordinator ends"});
                     else
                       answer.answer(encode(*status));
                   });
                 });
  }

  grpc::ServerUnaryReactor* Expel(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override {
    return unary(context, request, response, member_token_,
                 [this](grpc::ByteBuffer& message, OneAnswer answer, const std::string& who) {
                   auto expel = decode(message, who, refusals_, decode_expel);
                   if (const auto* why = std::get_if<CallEnd>(&expel)) return answer.end(*why);
                   auto& order = std::get<Expulsion>(expel);
                   desk_.expel(order.worker, order.reason, [answer](const CallEnd* why) mutable {
                     if (why != nullptr)
                       answer.end(*why);
                     else
                       answer.answer("");
                   });
                 });
  }

 private:
  std::optional<CallEnd> check_token(const grpc::CallbackServerContext& context,
                                     const std::string& expected, const std::string& who) {
    if (expected.empty()) return std::nullopt;
    const auto found = context.client_metadata().find(kTokenKey);
    const bool shown = found != context.client_metadata().end();
    if (shown && same_token({found->second.data(), found->second.size()}, expected))
      return std::nullopt;
    const char* why = shown ? "the token shown is not the one of this run" : "no token is shown";
    refusals_.add(Refusal::token, who, why);
    return CallEnd{CallEnd::Kind::denied, why};
  }

  template <class Body>
  grpc::ServerUnaryReactor* unary(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
                                  const std::string& expected, const Body& body) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    OneAnswer answer(reactor, response);
    const std::string who = context->peer();
    if (const auto denied = check_token(*context, expected, who)) {
      answer.end(*denied);
      return reactor;
    }
    grpc::ByteBuffer message = *request;
    if (const auto failed = at_the_door(who, [&] { body(message, answer, who); }))
      answer.end(*failed);
    return reactor;
  }

  CoordinatorDesk& desk_;
  Refusals& refusals_;
  const std::string member_token_, reader_token_;
};

}  // namespace

std::unique_ptr<CoordinatorService> make_coordinator_service(CoordinatorDesk& desk,
                                                             Refusals& refusals,
                                                             std::string member_token,
                                                             std::string reader_token) {
  return std::make_unique<Service>(desk, refusals, std::move(member_token),
                                   std::move(reader_token));
}

}  // namespace ballot
