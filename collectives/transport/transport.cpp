#include "collectives/transport/transport.h"

#include <numeric>

#include "core/error.h"

namespace ballot {

const char* to_string(Purpose purpose) {
  switch (purpose) {
    case Purpose::vote:
      return "vote";
    case Purpose::mean:
      return "mean";
    case Purpose::control:
      return "control";
  }
  return "?";
}

std::uint64_t Traffic::total_sent() const {
  return std::accumulate(bytes_sent.begin(), bytes_sent.end(), std::uint64_t{0});
}

Traffic operator-(const Traffic& later, const Traffic& earlier) {
  Traffic difference;
  for (std::size_t i = 0; i < kPurposes; ++i) {
    difference.bytes_sent[i] = later.bytes_sent[i] - earlier.bytes_sent[i];
    difference.bytes_received[i] = later.bytes_received[i] - earlier.bytes_received[i];
    difference.messages_sent[i] = later.messages_sent[i] - earlier.messages_sent[i];
  }
  return difference;
}

Traffic operator+(const Traffic& one, const Traffic& other) {
  Traffic sum;
  for (std::size_t i = 0; i < kPurposes; ++i) {
    sum.bytes_sent[i] = one.bytes_sent[i] + other.bytes_sent[i];
    sum.bytes_received[i] = one.bytes_received[i] + other.bytes_received[i];
    sum.messages_sent[i] = one.messages_sent[i] + other.messages_sent[i];
  }
  return sum;
}

std::unique_ptr<Transfer> Transport::open_exchange(Purpose purpose, std::span<const SendParts> to,
                                                   std::span<const ReceiveParts> from) {
  const std::size_t ranks = static_cast<std::size_t>(size());
  require(to.size() == ranks && from.size() == ranks, "buffers to {} and from {} of {} ranks",
          to.size(), from.size(), ranks);
  return make_transfer(take_number(false), purpose, to, from);
}

std::unique_ptr<Transfer> Transport::start_exchange(Purpose purpose, std::span<const SendParts> to,
                                                    std::span<const ReceiveParts> from) {
  const std::size_t ranks = static_cast<std::size_t>(size());
  require(to.size() == ranks && from.size() == ranks, "buffers to {} and from {} of {} ranks",
          to.size(), from.size(), ranks);
  auto transfer = make_transfer(take_number(true), purpose, to, from);
  transfer->start();
  return transfer;
}

std::unique_ptr<Transfer> Transport::start_exchange(Purpose purpose, std::span<const ConstBytes> to,
                                                    std::span<const Bytes> from) {
  std::vector<SendParts> send;
  for (const ConstBytes bytes : to) send.push_back({bytes});
  std::vector<ReceiveParts> receive;
  for (const Bytes bytes : from) receive.push_back({bytes});
  return start_exchange(purpose, send, receive);
}

std::unique_ptr<Transfer> Transport::start_gather(Purpose purpose, ConstBytes mine,
                                                  std::span<const Bytes> from) {
  const std::vector<ConstBytes> to(static_cast<std::size_t>(size()), mine);
  return start_exchange(purpose, to, from);
}

void Transport::barrier(Deadline deadline) {
  // Empty messages: who has heard from all has passed, and a Timeout names who is missing.
  start_gather(Purpose::control, {}, std::vector<Bytes>(static_cast<std::size_t>(size())))
      ->wait(deadline);
}

std::string name_ranks(std::span<const int> ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  return text;
}

std::size_t size_bytes(const SendParts& parts) {
  return std::accumulate(parts.begin(), parts.end(), std::size_t{0},
                         [](std::size_t sum, ConstBytes part) { return sum + part.size(); });
}

std::size_t size_bytes(const ReceiveParts& parts) {
  return std::accumulate(parts.begin(), parts.end(), std::size_t{0},
                         [](std::size_t sum, Bytes part) { return sum + part.size(); });
}

}  // namespace ballot
