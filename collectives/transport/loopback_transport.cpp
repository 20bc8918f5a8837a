#include "collectives/transport/loopback_transport.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

// One message between two ranks, as either side posted it. The later side copies, straight from
// buffer to buffer.
struct Posted {
  std::uint64_t sequence = 0;
  ConstBytes source;
  Bytes target;
  bool sent = false;      // the sender has posted
  bool expected = false;  // the receiver has posted
  bool copied = false;
  bool wrong_size = false;
  bool sender_saw = false;  // each side removes itself once it has seen the end
  bool receiver_saw = false;
};

// What the transports of one set of ranks share. Everything is under the mutex.
struct Hub {
  explicit Hub(int ranks) : size(ranks), lost(static_cast<std::size_t>(ranks)) {}
  const int size;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> lost;
  std::map<std::pair<int, int>, std::map<std::uint64_t, Posted>>
      messages;  // by (from, to), then sequence
  struct Child {
    std::shared_ptr<Hub> hub;
    int still_to_take = 0;
  };
  std::map<std::pair<std::uint64_t, int>, Child> children;  // by (number of the split, color)

  // Call with the mutex held.
  Posted& message(int from, int to, std::uint64_t sequence) {
    Posted& posted = messages[{from, to}][sequence];
    posted.sequence = sequence;
    return posted;
  }
  void forget_if_seen(int from, int to, std::uint64_t sequence) {
    auto& queue = messages[{from, to}];
    const auto found = queue.find(sequence);
    if (found != queue.end() && found->second.sender_saw && found->second.receiver_saw)
      queue.erase(found);
  }
  void copy_if_both(Posted& posted) {
    if (!posted.sent || !posted.expected || posted.copied) return;
    posted.wrong_size = posted.source.size() != posted.target.size();
    if (!posted.wrong_size && !posted.source.empty())
      std::memcpy(posted.target.data(), posted.source.data(), posted.source.size());
    posted.copied = true;
  }
};

class LoopbackTransport;

class LoopbackTransfer final : public Transfer {
 public:
  LoopbackTransfer(LoopbackTransport& transport, std::shared_ptr<Hub> hub, int rank,
                   Purpose purpose, std::uint64_t sequence, std::span<const ConstBytes> to,
                   std::span<const Bytes> from);
  ~LoopbackTransfer() override;
  void wait(Deadline deadline) override;
  const std::vector<bool>& arrived() override;

 private:
  bool finished() const {
    return std::ranges::find(arrived_, false) == arrived_.end() && sends_left_ == 0;
  }
  void look();  // with the mutex held: takes note of what has been copied; throws on a wrong size

  LoopbackTransport& transport_;
  std::shared_ptr<Hub> hub_;
  int rank_;
  Purpose purpose_;
  std::uint64_t sequence_;
  std::vector<bool> arrived_;
  std::vector<bool> taken_;  // by peer: our message to it has been copied
  int sends_left_ = 0;
};

class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(std::shared_ptr<Hub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}
  ~LoopbackTransport() override { leave(); }

  std::string name() const override { return "loopback"; }
  int rank() const override { return rank_; }
  int size() const override { return hub_->size; }

  std::unique_ptr<Transfer> start_exchange(Purpose purpose, std::span<const ConstBytes> to,
                                           std::span<const Bytes> from) override {
    require_one_span_per_rank(*this, to.size());
    require_one_span_per_rank(*this, from.size());
    for (int r = 0; r < size(); ++r)
      if (r != rank_) count_sent(purpose, to[static_cast<std::size_t>(r)].size());
    return std::make_unique<LoopbackTransfer>(*this, hub_, rank_, purpose, sequence_++, to, from);
  }

  std::unique_ptr<Transfer> start_gather(Purpose purpose, ConstBytes mine,
                                         std::span<const Bytes> from) override {
    const std::vector<ConstBytes> to(static_cast<std::size_t>(size()), mine);
    return start_exchange(purpose, to, from);
  }

  void barrier(Deadline deadline) override { barrier_by_exchange(*this, deadline); }

  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    std::vector<int> colors(static_cast<std::size_t>(size()));
    colors[static_cast<std::size_t>(rank_)] = color;
    std::vector<Bytes> from;
    for (int& c : colors) from.push_back(std::as_writable_bytes(std::span(&c, 1)));
    const std::uint64_t number = sequence_;
    start_gather(Purpose::control, std::as_bytes(std::span(&color, 1)), from)->wait(deadline);
    const int ranks = static_cast<int>(std::ranges::count(colors, color));
    const int new_rank =
        static_cast<int>(std::count(colors.begin(), colors.begin() + rank_, color));
    const std::lock_guard lock(hub_->mutex);
    Hub::Child& child = hub_->children[{number, color}];
    if (child.hub == nullptr) child = {std::make_shared<Hub>(ranks), ranks};
    auto made = std::make_unique<LoopbackTransport>(child.hub, new_rank);
    if (--child.still_to_take == 0) hub_->children.erase({number, color});
    return made;
  }

  Traffic traffic() const override { return traffic_; }

  // Nobody may wait for this rank any more.
  void leave() {
    const std::lock_guard lock(hub_->mutex);
    hub_->lost[static_cast<std::size_t>(rank_)] = true;
    hub_->changed.notify_all();
  }
  void count_sent(Purpose purpose, std::size_t bytes) {
    traffic_.bytes_sent[static_cast<std::size_t>(purpose)] += bytes;
    ++traffic_.messages_sent[static_cast<std::size_t>(purpose)];
  }
  void count_received(Purpose purpose, std::size_t bytes) {
    traffic_.bytes_received[static_cast<std::size_t>(purpose)] += bytes;
  }

 private:
  std::shared_ptr<Hub> hub_;
  int rank_;
  std::uint64_t sequence_ = 0;
  Traffic traffic_;
};

LoopbackTransfer::LoopbackTransfer(LoopbackTransport& transport, std::shared_ptr<Hub> hub, int rank,
                                   Purpose purpose, std::uint64_t sequence,
                                   std::span<const ConstBytes> to, std::span<const Bytes> from)
    : transport_(transport),
      hub_(std::move(hub)),
      rank_(rank),
      purpose_(purpose),
      sequence_(sequence),
      arrived_(to.size()),
      taken_(to.size()),
      sends_left_(static_cast<int>(to.size()) - 1) {
  arrived_[static_cast<std::size_t>(rank)] = true;
  taken_[static_cast<std::size_t>(rank)] = true;
  const std::lock_guard lock(hub_->mutex);
  if (hub_->lost[static_cast<std::size_t>(rank)])
    throw TransportError("loopback rank {}: its transport was ended by an earlier failure", rank);
  for (int peer = 0; peer < hub_->size; ++peer) {
    if (peer == rank) continue;
    Posted& out = hub_->message(rank, peer, sequence);
    out.source = to[static_cast<std::size_t>(peer)];
    out.sent = true;
    hub_->copy_if_both(out);
    Posted& in = hub_->message(peer, rank, sequence);
    in.target = from[static_cast<std::size_t>(peer)];
    in.expected = true;
    hub_->copy_if_both(in);
  }
  hub_->changed.notify_all();
}

LoopbackTransfer::~LoopbackTransfer() {
  if (finished()) return;
  {
    // The buffers die: nobody may copy from or to them any more.
    const std::lock_guard lock(hub_->mutex);
    for (int peer = 0; peer < hub_->size; ++peer) {
      if (!taken_[static_cast<std::size_t>(peer)])
        hub_->message(rank_, peer, sequence_).sent = false;
      if (!arrived_[static_cast<std::size_t>(peer)])
        hub_->message(peer, rank_, sequence_).expected = false;
    }
  }
  transport_.leave();
}

void LoopbackTransfer::look() {
  for (int peer = 0; peer < hub_->size; ++peer) {
    const std::size_t p = static_cast<std::size_t>(peer);
    if (!taken_[p]) {
      Posted& out = hub_->message(rank_, peer, sequence_);
      if (out.copied) {
        taken_[p] = true;
        --sends_left_;
        out.sender_saw = true;
        hub_->forget_if_seen(rank_, peer, sequence_);
      }
    }
    if (!arrived_[p]) {
      Posted& in = hub_->message(peer, rank_, sequence_);
      if (!in.copied) continue;
      if (in.wrong_size)
        throw TransportError("rank {} sent {} bytes to rank {}, expected {}", peer,
                             in.source.size(), rank_, in.target.size());
      transport_.count_received(purpose_, in.target.size());
      arrived_[p] = true;
      in.receiver_saw = true;
      hub_->forget_if_seen(peer, rank_, sequence_);
    }
  }
}

const std::vector<bool>& LoopbackTransfer::arrived() {
  const std::lock_guard lock(hub_->mutex);
  look();
  return arrived_;
}

void LoopbackTransfer::wait(Deadline deadline) {
  std::unique_lock lock(hub_->mutex);
  for (;;) {
    look();
    if (finished()) return;
    std::vector<int> missing, gone;
    for (int peer = 0; peer < hub_->size; ++peer) {
      const std::size_t p = static_cast<std::size_t>(peer);
      if (arrived_[p] && taken_[p]) continue;
      missing.push_back(peer);
      if (hub_->lost[p]) gone.push_back(peer);
    }
    if (!gone.empty())
      throw PeerLost("{} left while rank {} waited for it", name_ranks(gone), rank_);
    if (deadline.passed())
      throw Timeout("rank {} waited for {} ({}) past its deadline", rank_, name_ranks(missing),
                    to_string(purpose_));
    if (deadline.at == TimePoint::max())
      hub_->changed.wait(lock);
    else
      hub_->changed.wait_until(lock, deadline.at);
  }
}

}  // namespace

std::vector<std::unique_ptr<Transport>> make_loopback(int size) {
  require(size >= 1, "loopback of {} ranks", size);
  const auto hub = std::make_shared<Hub>(size);
  std::vector<std::unique_ptr<Transport>> transports;
  for (int rank = 0; rank < size; ++rank)
    transports.push_back(std::make_unique<LoopbackTransport>(hub, rank));
  return transports;
}

void run_loopback(int size, const std::function<void(Transport&)>& body) {
  auto transports = make_loopback(size);
  const int threads_per_rank = std::max(1, thread_count() / size);
  std::mutex mutex;
  std::exception_ptr first_failure;
  std::vector<std::thread> threads;
  for (auto& transport : transports)
    threads.emplace_back(
        [&mutex, &first_failure, &body, threads_per_rank, mine = std::move(transport)]() mutable {
          set_thread_count(threads_per_rank);
          try {
            body(*mine);
          } catch (...) {
            const std::lock_guard lock(mutex);
            if (!first_failure) first_failure = std::current_exception();
          }
          mine.reset();  // after the failure is noted: the peers' PeerLost comes later
        });
  for (std::thread& thread : threads) thread.join();
  if (first_failure) std::rethrow_exception(first_failure);
}

}  // namespace ballot
