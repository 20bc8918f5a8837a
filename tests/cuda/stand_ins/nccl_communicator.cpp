#include "stand_ins/nccl_communicator.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>

#include "stand_ins/failure.h"
#include "stand_ins/work_queue.h"

namespace ballot::stand_in {
namespace {

// A network that tells nobody when a rank is lost.
bool losses_are_silent() {
  const char* text = std::getenv("BALLOT_STAND_IN_NCCL_LOSS");
  return text != nullptr && std::strcmp(text, "silent") == 0;
}

Message message_of(Message::Kind kind, bool aborted = false) {
  Message message;
  message.kind = kind;
  message.aborted = aborted ? 1 : 0;
  return message;
}

}  // namespace

Communicator::Communicator(const ncclUniqueId& id, int rank, int size, int device, bool blocking)
    : world_(id, rank, size, device), device_(device), blocking_(blocking), delay_(delay()) {}

std::string Communicator::name() const {
  return fmt::format("rank {} of {}", rank(), size());
}

ncclResult_t Communicator::ask() {
  if (!loss_.empty()) return ncclRemoteError;
  if (state_ == State::ended) return ncclSuccess;
  world_.progress(false);
  if (state_ == State::finalizing) finalize_further();
  if (find_loss()) return ncclRemoteError;
  switch (state_) {
    case State::coming:
      if (!world_.missing().empty() || delay_-- > 0) return ncclInProgress;
      state_ = State::ready;
      return ncclSuccess;
    case State::issuing:
      if (delay_-- > 0) return ncclInProgress;
      state_ = State::ready;
      give_to_streams();
      return ncclSuccess;
    case State::finalizing:
      return ncclInProgress;
    default:
      return ncclSuccess;
  }
}

void Communicator::require_ready(const char* who) const {
  const auto progress = [&](const char* what) {
    refuse(cudaErrorNotPermitted, "{} with a communicator ({}) {}", who, name(), what);
  };
  switch (state_) {
    case State::coming:
      return progress("whose making is in progress: poll ncclCommGetAsyncError");
    case State::issuing:
      return progress("whose last group is in progress: poll ncclCommGetAsyncError");
    case State::finalizing:
      return progress("whose end is in progress");
    case State::finalized:
      return progress("that was finalized");
    default:
      return;
  }
}

ncclResult_t Communicator::issue(std::vector<std::shared_ptr<Operation>> operations) {
  for (const auto& operation : operations) issued_.push_back(operation);
  held_back_ = std::move(operations);
  delay_ = blocking_ ? 0 : delay();
  if (delay_ > 0) {
    --delay_;  // the first answer is this one
    state_ = State::issuing;
    return ncclInProgress;
  }
  give_to_streams();
  return ncclSuccess;
}

void Communicator::give_to_streams() {
  const std::vector<std::shared_ptr<Operation>> operations = std::move(held_back_);
  held_back_.clear();
  const std::shared_ptr<Communicator> self = shared_from_this();
  for (const auto& operation : operations) {
    require_stream(operation->stream, operation->name.c_str());
    enqueue(operation->stream, {operation->name, [self, operation] { return self->run(operation); },
                                true, [self, operation] { return self->missing(*operation); }});
  }
}

bool Communicator::run(const std::shared_ptr<Operation>& operation) {
  if (state_ == State::ended) {
    operation->poison();
    return true;
  }
  if (issued_.front() != operation || !operation->run(world_, device_)) return false;
  issued_.pop_front();
  return true;
}

std::string Communicator::missing(const Operation& operation) const {
  if (state_ != State::ended && issued_.front().get() != &operation)
    return "waits for an earlier operation of its communicator";
  return operation.missing(world_);
}

ncclResult_t Communicator::wait_for_all() {
  const std::shared_ptr<Communicator> self = shared_from_this();
  ncclResult_t result = ncclInProgress;
  run_until([&] { return (result = ask()) != ncclInProgress; }, nullptr,
            fmt::format("ncclCommInitRank of {}", name()));
  return result;
}

ncclResult_t Communicator::finalize() {
  state_ = State::finalizing;
  if (!blocking_) return ncclInProgress;
  const std::shared_ptr<Communicator> self = shared_from_this();
  ncclResult_t result = ncclInProgress;
  run_until([&] { return (result = ask()) != ncclInProgress; }, nullptr,
            fmt::format("ncclCommFinalize of {}", name()));
  return result;
}

void Communicator::finalize_further() {
  if (!issued_.empty()) poll(issued_.front()->stream);
  if (!issued_.empty()) return;
  if (!said_finalized_) world_.say_to_all(message_of(Message::Kind::finalized));
  said_finalized_ = true;
  if (not_finalized().empty() && world_.has_said_all()) state_ = State::finalized;
}

std::string Communicator::not_finalized() const {
  std::string text;
  for (int peer = 0; peer < size(); ++peer)
    if (peer != rank() && !world_.link(peer)->finalized)
      text += fmt::format("{}rank {}", text.empty() ? "" : ", ", peer);
  return text;
}

bool Communicator::find_loss() {
  if (losses_are_silent()) return false;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank() || !world_.is_gone(peer)) continue;
    std::string while_what;
    for (const auto& operation : issued_)
      if (operation->waits_for(peer)) while_what = operation->name;
    if (state_ == State::coming) while_what = "ncclCommInitRank of " + name();
    if (state_ == State::finalizing && !world_.link(peer)->finalized)
      while_what = "ncclCommFinalize of " + name();
    if (while_what.empty()) continue;
    loss_ = fmt::format("{} waits for rank {}: {}", while_what, peer, world_.link(peer)->farewell);
    return true;
  }
  return false;
}

void Communicator::destroy() {
  if (!loss_.empty())
    refuse(cudaErrorNotPermitted, "ncclCommDestroy of a communicator with an error ({}): abort it",
           loss_);
  if (state_ != State::finalized) {
    require_ready("ncclCommDestroy");
    if (!issued_.empty())
      refuse(cudaErrorNotPermitted,
             "ncclCommDestroy of {} while {} of its operations are queued, the first {}", name(),
             issued_.size(), issued_.front()->name);
    const std::shared_ptr<Communicator> self = shared_from_this();
    state_ = State::finalizing;
    run_until(
        [&] {
          world_.progress(false);
          if (state_ == State::finalizing) finalize_further();
          return state_ != State::finalizing;
        },
        nullptr, fmt::format("ncclCommDestroy of {}, which every rank has to call,", name()));
  }
  end(false);
}

void Communicator::abort() {
  end(true);
}

void Communicator::end(bool aborted) {
  if (state_ == State::ended) return;
  world_.say_to_all(message_of(Message::Kind::goodbye, aborted));
  drop();
}

void Communicator::drop() {
  state_ = State::ended;
  held_back_.clear();
  issued_.clear();
  world_.leave();
}

}  // namespace ballot::stand_in
