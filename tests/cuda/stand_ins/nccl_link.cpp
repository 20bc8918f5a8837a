#include "stand_ins/nccl_link.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "stand_ins/failure.h"

namespace ballot::stand_in {
namespace {

// Device memory opens to the touch of this thread, not to that of the kernel in a system call.
void open_by_touch(const std::byte* memory) {
  const auto* at = static_cast<const volatile std::byte*>(memory);
  [[maybe_unused]] const std::byte touched = *at;
}

bool would_block() {
  return errno == EAGAIN || errno == EWOULDBLOCK;
}

}  // namespace

Link::~Link() {
  close(socket_);
}

void Link::grant(Moving* to) {
  granted_.push_back(to);
  Message message;
  message.kind = Message::Kind::grant;
  say(message);
}

void Link::send(Moving* from) {
  Message message;
  message.kind = Message::Kind::data;
  message.bytes = from->bytes;
  outgoing_.push_back({message, from, 0});
}

bool Link::progress(bool within_operation) {
  bool moved = false;
  while (true) {
    const bool wrote = write(within_operation), came = read(within_operation);
    if (!wrote && !came) return moved;
    moved = true;
  }
}

bool Link::write(bool within_operation) {
  bool moved = false;
  while (!outgoing_.empty()) {
    Outgoing& next = outgoing_.front();
    const bool told = next.written == sizeof(Message);
    if (told && (next.data == nullptr || next.data->moved == next.data->bytes)) {
      if (next.data != nullptr) next.data->complete = true;
      outgoing_.pop_front();
      continue;
    }
    if (told && !within_operation) return moved;
    if (told) open_by_touch(next.data->memory);
    const std::byte* from = told ? next.data->memory + next.data->moved
                                 : reinterpret_cast<const std::byte*>(&next.message) + next.written;
    const std::size_t left =
        told ? next.data->bytes - next.data->moved : sizeof(Message) - next.written;
    const ssize_t done = ::send(socket_, from, left, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && would_block()) return moved;
    if (done < 0) {  // reading will find out why
      outgoing_.clear();
      return moved;
    }
    (told ? next.data->moved : next.written) += static_cast<std::size_t>(done);
    moved = true;
  }
  return moved;
}

bool Link::read(bool within_operation) {
  bool moved = false;
  while (!gone) {
    if (arriving_ != nullptr && arriving_->moved == arriving_->bytes) {
      arriving_->complete = true;
      arriving_ = nullptr;
    }
    const bool data = arriving_ != nullptr;
    if (data && !within_operation) return moved;
    if (data) open_by_touch(arriving_->memory);
    std::byte* to = data ? arriving_->memory + arriving_->moved : partial_ + partial_bytes_;
    const std::size_t left =
        data ? arriving_->bytes - arriving_->moved : sizeof(Message) - partial_bytes_;
    const ssize_t done = recv(socket_, to, left, MSG_DONTWAIT);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && would_block()) return moved;
    moved = true;
    if (done <= 0) {
      gone = true;
      return moved;
    }
    (data ? arriving_->moved : partial_bytes_) += static_cast<std::size_t>(done);
    if (data || partial_bytes_ < sizeof(Message)) continue;
    Message message;
    std::memcpy(&message, partial_, sizeof message);
    partial_bytes_ = 0;
    take(message);
  }
  return moved;
}

void Link::take(const Message& message) {
  switch (message.kind) {
    case Message::Kind::hello:
      hello = message;
      break;
    case Message::Kind::offer:
      offers.push_back(message);
      break;
    case Message::Kind::grant:
      ++grants;
      break;
    case Message::Kind::data:
      if (granted_.empty() || granted_.front()->bytes != message.bytes)
        refuse(cudaErrorNotPermitted, "the stand-in of NCCL got {} bytes that nobody asked for",
               message.bytes);
      arriving_ = granted_.front();
      granted_.pop_front();
      break;
    case Message::Kind::finalized:
      finalized = true;
      break;
    case Message::Kind::goodbye:
      farewell = message.aborted != 0 ? "it has aborted its communicator"
                                      : "it has destroyed its communicator";
      break;
  }
}

}  // namespace ballot::stand_in
