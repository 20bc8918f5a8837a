#include "collectives/rate_probe.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "collectives/message.h"
#include "collectives/tally.h"
#include "core/buffer.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace ballot {
namespace {

constexpr int kSmallExchanges = 15;
constexpr std::size_t kFirstBytes = 64 << 10, kMostBytes = 8 << 20;
constexpr double kLongEnough = 0.05;  // s

double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

// Sends rank 0's values to all.
template <class Value>
Value from_first(Transport& transport, Value value, Deadline deadline) {
  static_assert(std::is_trivially_copyable_v<Value>);
  const std::size_t ranks = static_cast<std::size_t>(transport.size());
  std::vector<SendParts> sends(ranks);
  std::vector<ReceiveParts> receives(ranks);
  if (transport.rank() == 0)
    for (std::size_t r = 1; r < ranks; ++r) sends[r] = {std::as_bytes(std::span(&value, 1))};
  else
    receives[0] = {std::as_writable_bytes(std::span(&value, 1))};
  transport.start_exchange(Purpose::control, sends, receives)->wait(deadline);
  return value;
}

class Prober {
 public:
  Prober(Transport& transport, Deadline deadline)
      : transport_(transport),
        deadline_(deadline),
        ranks_(static_cast<std::size_t>(transport.size())),
        rank_(static_cast<std::size_t>(transport.rank())),
        out_(kMostBytes),
        in_(kMostBytes / (ranks_ - 1) * ranks_ + ranks_ * 64) {
    std::memset(out_.data(), 0, out_.size_bytes());  // pages are there before the clock runs
    std::memset(in_.data(), 0, in_.size_bytes());
  }

  // Seconds of one exchange: `each` bytes to every peer, or only to the next rank.
  double exchange(std::size_t each, bool all) {
    std::vector<SendParts> to(ranks_);
    std::vector<ReceiveParts> from(ranks_);
    const Bytes out(out_.data(), each), in(in_.data(), in_.size_bytes());
    const std::size_t next = (rank_ + 1) % ranks_, previous = (rank_ + ranks_ - 1) % ranks_;
    for (std::size_t r = 0; r < ranks_; ++r) {
      if (r == rank_) continue;
      if (all || r == next) to[r] = {ConstBytes(out)};
      if (all || r == previous) from[r] = {in.subspan(all ? r * each : 0, each)};
    }
    transport_.barrier(deadline_);
    Stopwatch watch;
    transport_.start_exchange(Purpose::control, to, from)->wait(deadline_);
    return watch.elapsed();
  }

  Link measure(int node_size) {
    const double peers = static_cast<double>(ranks_ - 1);
    Link link;
    exchange(8, true);  // connections are made at the first use
    std::vector<double> one, all;
    for (int i = 0; i < kSmallExchanges; ++i) one.push_back(exchange(8, false));
    for (int i = 0; i < kSmallExchanges; ++i) all.push_back(exchange(8, true));
    link.latency = median(one);
    if (peers > 1) link.per_message = std::max(0.0, median(all) - median(one)) / (peers - 1);
    link.latency = std::max(0.0, link.latency - link.per_message);

    // The largest exchange counts; its second time is without what growing buffers cost.
    std::size_t bytes = kFirstBytes;
    while (true) {
      const std::size_t each = std::max<std::size_t>(1, bytes / (ranks_ - 1));
      const double first = exchange(each, true);
      // Ranks must go on or stop together, so the first decides.
      const bool last = first >= kLongEnough || 2 * bytes > kMostBytes;
      if (from_first(transport_, static_cast<std::uint64_t>(last), deadline_) == 0) {
        bytes *= 2;
        continue;
      }
      const double second = exchange(each, true);
      const double wire =
          std::max(1e-9, std::min(first, second) - link.latency - peers * link.per_message);
      // Of a worker's peers, those on its own node cost the node's link nothing.
      const double remote = static_cast<double>(transport_.size() - node_size);
      const double crossing = remote > 0 ? remote * node_size : peers;
      link.bandwidth = crossing * static_cast<double>(each) / wire;
      return from_first(transport_, link, deadline_);
    }
  }

 private:
  Transport& transport_;
  const Deadline deadline_;
  const std::size_t ranks_, rank_;
  Buffer out_, in_;
};

// Seconds of one call, from as many as fit into `at_least` seconds.
template <class Body>
double time_of(double at_least, const Body& body) {
  body();
  int calls = 0;
  Stopwatch watch;
  do {
    body();
    ++calls;
  } while (watch.elapsed() < at_least);
  return watch.elapsed() / calls;
}

double tally_seconds(const BallotLayout& layout, int voters) {
  const BallotChunk chunk = layout.chunk(0, 1);
  const std::size_t words = static_cast<std::size_t>(chunk.word_count());
  const std::size_t block_words = static_cast<std::size_t>(layout.blocks() + 63) / 64 + 1;
  std::vector<std::uint64_t> bits(words * static_cast<std::size_t>(voters));
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = mix64(i);
  const std::vector<std::uint64_t> none(block_words);
  std::vector<BallotPart> parts;
  for (std::size_t v = 0; v < static_cast<std::size_t>(voters); ++v)
    parts.push_back({bits.data() + v * words, none.data()});
  std::vector<std::uint64_t> verdict(words), held(block_words);
  VoteStatistics statistics;
  statistics.agreed.assign(parts.size(), 0);
  statistics.compared.assign(parts.size(), 0);
  return time_of(0.01, [&] {
    tally(layout, chunk, parts, {}, {verdict.data(), held.data(), nullptr}, statistics);
  });
}

}  // namespace

Link probe_link(Transport& transport, int node_size, Deadline deadline) {
  if (transport.size() < 2)
    throw ConfigError("a link is measured between workers; there is one only");
  if (node_size < 1 || transport.size() % node_size != 0)
    throw ConfigError("node_size = {}: {} workers cannot be cut into nodes of {}", node_size,
                      transport.size(), node_size);
  return Prober(transport, deadline).measure(node_size);
}

VoteRates probe_vote_rates(int voters) {
  require(voters >= 1 && voters <= kMaxVoters, "rates for {} voters", voters);
  constexpr std::int64_t kElements = 1 << 20;
  const BallotLayout layout = flat_layout(kElements);
  const int few = std::min(voters, 2), many = std::max(few + 2, std::min(voters, 16));
  const double with_few = tally_seconds(layout, few), with_many = tally_seconds(layout, many);
  VoteRates rates;
  // Exact at `many`: where more ballots cost more each, they cost all of it.
  double per_ballot = std::max((with_many - with_few) / (many - few), 0.01 * with_few);
  double fixed = with_many - many * per_ballot;
  if (fixed < 0.01 * with_many) {
    fixed = 0.01 * with_many;
    per_ballot = 0.99 * with_many / many;
  }
  rates.tally_ballots = kElements / per_ballot;
  rates.tally_elements = kElements / fixed;

  constexpr std::size_t kBytes = 4 << 20;
  Buffer message(kBytes), copy(kBytes);
  std::memset(message.data(), 1, kBytes);
  rates.checksum = kBytes / time_of(0.01, [&] { seal_message({}, Bytes(message.data(), kBytes)); });
  rates.memory = 2 * kBytes / time_of(0.01, [&] {
                   parallel_for(kBytes, 1 << 16, [&](std::int64_t begin, std::int64_t end) {
                     std::memcpy(copy.data() + begin, message.data() + begin,
                                 static_cast<std::size_t>(end - begin));
                   });
                 });
  return rates;
}

VoteRates share_rates(Transport& transport, VoteRates mine, Deadline deadline) {
  return from_first(transport, mine, deadline);
}

}  // namespace ballot
