// One end of the link between two ranks of the stand-in's NCCL: a socket that never blocks, on
// which messages follow one another in each direction.
//
// A rank offers what it sends; the other grants it when the receive that matches runs; then the
// data follow. So no data lie in a link that nobody has asked for, and what ranks tell one another
// is never stuck behind them. Callers hold the device's lock.
#pragma once

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace ballot::stand_in {

struct Message {
  enum class Kind : std::uint32_t { hello, offer, grant, data, finalized, goodbye };
  enum class Of : std::uint32_t { send, all_reduce };
  Kind kind{};
  Of of{};  // an offer's
  // A hello's: who speaks.
  std::int32_t rank = 0, size = 0, device = 0, process = 0;
  // An offer's; of an all-reduce its own count, not that of the part that is sent.
  std::int32_t type = 0;
  std::int32_t collective = 0;  // which one of its communicator, from 1 on
  std::uint64_t count = 0;
  // Of data: bytes that follow.
  std::uint64_t bytes = 0;
  // A goodbye's: 1 when the communicator was aborted, 0 when it was destroyed.
  std::uint64_t aborted = 0;
};

// Memory that data are sent from or come to, and how much of it has been.
struct Moving {
  std::byte* memory = nullptr;
  std::size_t bytes = 0;
  std::size_t moved = 0;
  bool complete = false;
};

class Link {
 public:
  explicit Link(int socket) : socket_(socket) {}
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  void say(const Message& message) { outgoing_.push_back({message, nullptr, 0}); }
  // Says that the offer is granted; the data go to `to`, which lives until they are there.
  void grant(Moving* to);
  // What the other side has granted. `from` lives until the data are written.
  void send(Moving* from);

  // Moves what moves without waiting, device memory only from within an operation. Whether
  // anything did.
  bool progress(bool within_operation);

  // What the other side has said.
  std::optional<Message> hello;
  std::deque<Message> offers;
  int grants = 0;
  bool finalized = false;
  bool gone = false;  // nothing more will come
  std::string farewell = "its process has ended or dropped the communicator";  // why

  bool has_said_all() const { return outgoing_.empty(); }

 private:
  struct Outgoing {
    Message message;
    Moving* data;
    std::size_t written;  // of the message
  };
  bool read(bool within_operation);
  bool write(bool within_operation);
  void take(const Message& message);

  int socket_;
  std::deque<Outgoing> outgoing_;
  std::deque<Moving*> granted_;  // in the order in which their data come
  Moving* arriving_ = nullptr;   // the one whose data come now
  std::byte partial_[sizeof(Message)];
  std::size_t partial_bytes_ = 0;
};

}  // namespace ballot::stand_in
