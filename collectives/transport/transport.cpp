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

std::string name_ranks(std::span<const int> ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  return text;
}

void require_one_span_per_rank(const Transport& transport, std::size_t spans) {
  require(spans == static_cast<std::size_t>(transport.size()), "{} buffers for {} ranks", spans,
          transport.size());
}

void barrier_by_exchange(Transport& transport, Deadline deadline) {
  const std::vector<ConstBytes> to(static_cast<std::size_t>(transport.size()));
  const std::vector<Bytes> from(static_cast<std::size_t>(transport.size()));
  transport.start_exchange(Purpose::control, to, from)->wait(deadline);
}

}  // namespace ballot
