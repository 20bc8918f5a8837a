#include "collectives/transport/grpc_join.h"

#include <algorithm>
#include <random>
#include <thread>

#include "collectives/transport/grpc_credentials.h"
#include "collectives/transport/grpc_frames.h"
#include "core/error.h"
#include "core/log.h"

namespace ballot {
namespace {

constexpr std::size_t kMostAddressBytes = 300;
constexpr auto kRetry = std::chrono::milliseconds(100);
// The desk answers this long before a worker's own deadline, so that the worker learns who is
// missing.
constexpr auto kAnswerBefore = std::chrono::milliseconds(300);

std::uint64_t draw_term() {
  std::random_device random;
  return (static_cast<std::uint64_t>(random()) << 32) | random();
}

std::chrono::system_clock::time_point wall(Deadline deadline) {
  const auto left = deadline.at - std::chrono::steady_clock::now();
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(left);
}

}  // namespace

wire::Hello make_hello(const GrpcOptions& options) {
  wire::Hello hello;
  hello.set_version(kPeerVersion);
  hello.set_rank(options.rank);
  hello.set_size(options.size);
  hello.set_token(options.token);
  return hello;
}

std::string why_refused(const GrpcOptions& options, const wire::Hello& hello) {
  if (!same_token(hello.token(), options.token))
    return "it shows another job token than this job's";
  if (hello.version() != kPeerVersion)
    return fmt::format("it speaks version {} of the peer protocol, expected {}", hello.version(),
                       kPeerVersion);
  if (hello.size() != options.size)
    return fmt::format("it is configured for {} workers, expected {}", hello.size(), options.size);
  if (hello.rank() < 0 || hello.rank() >= options.size)
    return fmt::format("it says it is rank {}, expected less than {}", hello.rank(), options.size);
  if (hello.rank() == options.rank)
    return fmt::format("it says it is rank {}, which is this worker", hello.rank());
  return "";
}

JoinDesk::JoinDesk(const GrpcOptions& options, NetworkAddress address, PeerService& service,
                   grpc::ServerCompletionQueue& queue, MeshSignal& signal)
    : options_(options),
      address_(std::move(address)),
      service_(service),
      queue_(queue),
      signal_(signal),
      held_(static_cast<std::size_t>(options.size)),
      gave_up_(static_cast<std::size_t>(options.size)) {
  table_.set_term(draw_term());
  for (int rank = 0; rank < options.size; ++rank) table_.add_addresses();
  table_.set_addresses(0, address_.text());
}

void JoinDesk::open() {
  take_next_call();
}

void JoinDesk::take_next_call() {
  Call* call = nullptr;
  {
    const std::lock_guard lock(signal_.mutex);
    if (signal_.cutting) return;
    const auto at = calls_.emplace(calls_.end());
    at->self = at;
    call = &*at;
  }
  call->arrived.run = [this, call](bool ok) {
    if (!ok) return;  // the server shuts down: the call never was, and goes with the desk
    take_next_call();
    check(*call);
  };
  call->answered.run = [this, call](bool) { count_event(*call); };
  call->ended.run = [this, call](bool) {
    {
      const std::lock_guard lock(signal_.mutex);
      const auto at = std::ranges::find(held_, call);
      if (at != held_.end() && !call->answering) {  // it gave up: its place is free again
        *at = nullptr;
        --joined_;
        --call->events_left;
      }
    }
    count_event(*call);
  };
  call->context.AsyncNotifyWhenDone(&call->ended);
  service_.RequestJoin(&call->context, &call->hello, &call->responder, &queue_, &queue_,
                       &call->arrived);
}

void JoinDesk::count_event(Call& call) {
  Calls gone;  // destroyed outside the mutex
  const std::lock_guard lock(signal_.mutex);
  if (--call.events_left == 0) gone.splice(gone.end(), calls_, call.self);
}

void JoinDesk::refuse(Call& call, const std::string& why) {
  log_warning("rank {} from {} is refused: {}", call.hello.rank(), call.context.peer(), why);
  {
    const std::lock_guard lock(signal_.mutex);
    if (signal_.cutting) return;
    call.answering = true;
    last_refusal_ =
        fmt::format("rank {} from {} was refused: {}", call.hello.rank(), call.context.peer(), why);
  }
  call.responder.FinishWithError({grpc::StatusCode::FAILED_PRECONDITION, why}, &call.answered);
}

void JoinDesk::check(Call& call) {
  std::string why = why_refused(options_, call.hello);
  if (call.hello.address().size() > kMostAddressBytes)
    why = fmt::format("its own address has {} bytes, expected at most {}",
                      call.hello.address().size(), kMostAddressBytes);
  if (why.empty()) {
    try {
      parse_host_port(call.hello.address(), "the worker's own address");
    } catch (const ConfigError& error) {
      why = error.what();
    }
  }
  if (!why.empty()) return refuse(call, why);
  Call* before = nullptr;
  {
    const std::lock_guard lock(signal_.mutex);
    if (signal_.cutting) return;
    Call*& place = held_[static_cast<std::size_t>(call.hello.rank())];
    if (complete_) {
      why = fmt::format("all {} workers have joined", options_.size);
    } else if (place != nullptr && place->hello.address() != call.hello.address()) {
      why = fmt::format("a worker at {} has joined as rank {}, this one is at {}",
                        place->hello.address(), call.hello.rank(), call.hello.address());
    } else {
      before = std::exchange(place, &call);  // the same worker once more: its old call has broken
      if (before != nullptr)
        before->answering = true;
      else
        ++joined_;
      table_.set_addresses(call.hello.rank(), call.hello.address());
      signal_.notify();
    }
  }
  if (before != nullptr)
    before->responder.FinishWithError({grpc::StatusCode::ABORTED, "joined again"},
                                      &before->answered);
  if (!why.empty()) refuse(call, why);
}

std::string JoinDesk::whom_we_wait_for() const {
  std::vector<int> never_came, gave_up;
  for (int rank = 1; rank < options_.size; ++rank) {
    const std::size_t r = static_cast<std::size_t>(rank);
    if (held_[r] == nullptr) (gave_up_[r] ? gave_up : never_came).push_back(rank);
  }
  std::string text =
      fmt::format("waited for {} at {}", name_ranks(never_came.empty() ? gave_up : never_came),
                  address_.text());
  if (!gave_up.empty()) text += fmt::format("; {} came and gave up", name_ranks(gave_up));
  if (!last_refusal_.empty()) text += "; " + last_refusal_;
  return text;
}

wire::Table JoinDesk::wait(Deadline deadline) {
  std::vector<Call*> answer;
  std::string failure;
  // Answers those held who pass `chosen`; call with the mutex held.
  const auto take_held = [&](const auto& chosen) {
    for (Call*& place : held_)
      if (place != nullptr && chosen(*place)) {
        place->answering = true;
        gave_up_[static_cast<std::size_t>(place->hello.rank())] = true;
        answer.push_back(std::exchange(place, nullptr));
      }
  };
  const auto answer_failure = [&](const std::string& text) {
    for (Call* call : answer)
      call->responder.FinishWithError({grpc::StatusCode::DEADLINE_EXCEEDED, text}, &call->answered);
    answer.clear();
  };
  std::unique_lock lock(signal_.mutex);
  while (joined_ < options_.size) {
    const auto near = std::chrono::system_clock::now() + kAnswerBefore;
    failure = whom_we_wait_for();
    const bool passed = deadline.passed();
    take_held([&](const Call& call) { return passed || call.context.deadline() <= near; });
    if (!passed) joined_ -= static_cast<int>(answer.size());
    if (!answer.empty()) {
      lock.unlock();
      answer_failure(failure);
      lock.lock();
    }
    if (passed) throw Timeout("rank 0 {} past its deadline", failure);
    signal_.changed.wait_until(lock,
                               std::min(deadline.at, std::chrono::steady_clock::now() + kRetry));
  }
  complete_ = true;
  take_held([](const Call&) { return true; });
  lock.unlock();
  for (Call* call : answer) call->responder.Finish(table_, grpc::Status::OK, &call->answered);
  return table_;
}

wire::Table join(const GrpcOptions& options, const NetworkAddress& rendezvous,
                 const NetworkAddress& mine, const std::shared_ptr<grpc::Channel>& channel,
                 Deadline deadline) {
  wire::Hello hello = make_hello(options);
  hello.set_address(mine.text());
  const auto stub = wire::Peers::NewStub(channel);
  std::string last;
  while (true) {
    grpc::ClientContext context;
    context.set_deadline(wall(deadline));
    wire::Table table;
    const grpc::Status status = stub->Join(&context, hello, &table);
    if (status.ok()) {
      if (table.addresses_size() != options.size)
        throw TransportError("the table of rank 0 at {} has {} workers, expected {}",
                             rendezvous.text(), table.addresses_size(), options.size);
      return table;
    }
    const std::string text = status.error_message();
    if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION)
      throw ConfigError("rank {} was refused by rank 0 at {}: {}", options.rank, rendezvous.text(),
                        text);
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED &&
        text.starts_with("waited for"))
      throw Timeout("rank {}: rank 0 {}", options.rank, text);
    if (text.find("handshake failed") != std::string::npos ||
        text.find("peer certificate") != std::string::npos)
      throw TransportError("rank {} and rank 0 at {} do not trust each other's TLS: {}",
                           options.rank, rendezvous.text(), text);
    if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED)
      throw ConfigError("rank {}: what listens at {} is no worker of Ballot: {}", options.rank,
                        rendezvous.text(), text);
    if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED || last.empty()) last = text;
    if (deadline.passed() || wall(deadline) <= std::chrono::system_clock::now() + kRetry)
      throw Timeout("rank {} ({} TLS) waited for rank 0 at {} past its deadline: {}", options.rank,
                    options.tls.given() ? "with" : "without", rendezvous.text(), last);
    std::this_thread::sleep_for(kRetry);
  }
}

}  // namespace ballot
