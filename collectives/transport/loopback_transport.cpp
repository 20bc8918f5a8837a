#include "collectives/transport/loopback_transport.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>

#include "collectives/transport/exchange_reducer.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

// One message between two ranks, as either side posted it. The later side copies, straight from
// buffers to buffers and outside the mutex.
struct Posted {
  const SendParts* source = nullptr;  // null: not posted, or taken back
  const ReceiveParts* target = nullptr;
  bool copying = false;
  bool copied = false;
  bool wrong_size = false;
  std::size_t sent_bytes = 0;
  bool sender_saw = false;  // each side removes itself once it has seen the end
  bool receiver_saw = false;
};

// From, to, number of the transfer, its how many-th start.
using MessageKey = std::tuple<int, int, std::uint64_t, std::uint64_t>;

void copy_parts(const SendParts& source, const ReceiveParts& target) {
  std::size_t part = 0, offset = 0;
  for (ConstBytes bytes : source)
    while (!bytes.empty()) {
      while (offset == target[part].size()) ++part, offset = 0;
      const std::size_t count = std::min(bytes.size(), target[part].size() - offset);
      std::memcpy(target[part].data() + offset, bytes.data(), count);
      offset += count;
      bytes = bytes.subspan(count);
    }
}

// What the transports of one set of ranks share. Everything is under the mutex.
struct Hub {
  explicit Hub(int ranks) : size(ranks), lost(static_cast<std::size_t>(ranks)) {}
  const int size;
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t version = 0;  // of everything here; what idle() watches
  std::vector<bool> lost;
  std::map<MessageKey, Posted> messages;
  struct Child {
    std::shared_ptr<Hub> hub;
    int still_to_take = 0;
  };
  std::map<std::pair<std::uint64_t, int>, Child> children;  // by (number of the split, color)

  // With the mutex held.
  void notify() {
    ++version;
    changed.notify_all();
  }
  void forget_if_seen(const MessageKey& key) {
    const auto found = messages.find(key);
    if (found != messages.end() && found->second.sender_saw && found->second.receiver_saw)
      messages.erase(found);
  }
  // Copies if both sides have posted; lets go of the mutex meanwhile.
  void copy_if_both(std::unique_lock<std::mutex>& lock, const MessageKey& key) {
    Posted& posted = messages[key];
    if (posted.source == nullptr || posted.target == nullptr || posted.copied || posted.copying)
      return;
    posted.sent_bytes = size_bytes(*posted.source);
    posted.wrong_size = posted.sent_bytes != size_bytes(*posted.target);
    if (!posted.wrong_size && posted.sent_bytes > 0) {
      posted.copying = true;
      lock.unlock();
      copy_parts(*posted.source, *posted.target);
      lock.lock();
      posted.copying = false;
    }
    posted.copied = true;
    notify();
  }
};

class LoopbackTransport;

class LoopbackTransfer final : public Transfer {
 public:
  LoopbackTransfer(LoopbackTransport& transport, std::shared_ptr<Hub> hub, int rank,
                   std::uint64_t number, Purpose purpose, std::span<const SendParts> to,
                   std::span<const ReceiveParts> from)
      : transport_(transport),
        hub_(std::move(hub)),
        rank_(rank),
        number_(number),
        purpose_(purpose),
        to_(to.begin(), to.end()),
        from_(from.begin(), from.end()),
        arrived_(to.size(), true),
        taken_(to.size(), true) {}
  ~LoopbackTransfer() override;
  void start() override;
  bool done() override;
  void wait(Deadline deadline) override;
  const std::vector<bool>& arrived() override;

 private:
  bool finished() const {
    return std::ranges::find(arrived_, false) == arrived_.end() &&
           std::ranges::find(taken_, false) == taken_.end();
  }
  MessageKey key(int from, int to) const { return {from, to, number_, starts_}; }
  void look();  // with the mutex held: takes note of what has been copied; throws on a wrong size
  std::vector<int> missing() const;
  void require_peers() const;  // with the mutex held

  LoopbackTransport& transport_;
  std::shared_ptr<Hub> hub_;
  int rank_;
  std::uint64_t number_;
  Purpose purpose_;
  std::vector<SendParts> to_;
  std::vector<ReceiveParts> from_;
  std::uint64_t starts_ = 0;
  std::vector<bool> arrived_;
  std::vector<bool> taken_;  // by peer: our message to it has been copied
};

class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(std::shared_ptr<Hub> hub, int rank)
      : hub_(std::move(hub)), rank_(rank), reducer_(*this) {}
  ~LoopbackTransport() override { leave(); }

  std::string name() const override { return "loopback"; }
  int rank() const override { return rank_; }
  int size() const override { return hub_->size; }
  Reducer* reducer() override { return &reducer_; }

  void idle(Duration at_most) override {
    std::unique_lock lock(hub_->mutex);
    hub_->changed.wait_for(lock, at_most, [this] { return hub_->version != seen_; });
    seen_ = hub_->version;
  }

  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    std::vector<int> colors(static_cast<std::size_t>(size()));
    colors[static_cast<std::size_t>(rank_)] = color;
    std::vector<Bytes> from;
    for (int& c : colors) from.push_back(std::as_writable_bytes(std::span(&c, 1)));
    start_gather(Purpose::control, std::as_bytes(std::span(&color, 1)), from)->wait(deadline);
    const std::uint64_t number = splits_++;
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
    hub_->notify();
  }
  void count_sent(Purpose purpose, std::size_t bytes) {
    traffic_.bytes_sent[static_cast<std::size_t>(purpose)] += bytes;
    ++traffic_.messages_sent[static_cast<std::size_t>(purpose)];
  }
  void count_received(Purpose purpose, std::size_t bytes) {
    traffic_.bytes_received[static_cast<std::size_t>(purpose)] += bytes;
  }

 protected:
  std::unique_ptr<Transfer> make_transfer(std::uint64_t number, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    return std::make_unique<LoopbackTransfer>(*this, hub_, rank_, number, purpose, to, from);
  }

 private:
  std::shared_ptr<Hub> hub_;
  int rank_;
  std::uint64_t splits_ = 0, seen_ = 0;
  Traffic traffic_;
  ExchangeReducer reducer_;
};

void LoopbackTransfer::start() {
  std::unique_lock lock(hub_->mutex);
  if (hub_->lost[static_cast<std::size_t>(rank_)])
    throw TransportError("loopback rank {}: its transport was ended by an earlier failure", rank_);
  require(finished(), "transfer {} of rank {} is started while it is under way", number_, rank_);
  ++starts_;
  for (int peer = 0; peer < hub_->size; ++peer) {
    const std::size_t p = static_cast<std::size_t>(peer);
    if (peer == rank_) continue;
    if (!to_[p].empty()) {
      taken_[p] = false;
      transport_.count_sent(purpose_, size_bytes(to_[p]));
      hub_->messages[key(rank_, peer)].source = &to_[p];
      hub_->copy_if_both(lock, key(rank_, peer));
    }
    if (!from_[p].empty()) {
      arrived_[p] = false;
      hub_->messages[key(peer, rank_)].target = &from_[p];
      hub_->copy_if_both(lock, key(peer, rank_));
    }
  }
}

LoopbackTransfer::~LoopbackTransfer() {
  if (finished()) return;
  {
    // The buffers die: nobody may copy from or to them any more.
    std::unique_lock lock(hub_->mutex);
    const auto take_back = [&](const MessageKey& message, auto Posted::*side) {
      hub_->changed.wait(lock, [&] { return !hub_->messages[message].copying; });
      hub_->messages[message].*side = nullptr;
    };
    for (int peer = 0; peer < hub_->size; ++peer) {
      if (!taken_[static_cast<std::size_t>(peer)]) take_back(key(rank_, peer), &Posted::source);
      if (!arrived_[static_cast<std::size_t>(peer)]) take_back(key(peer, rank_), &Posted::target);
    }
  }
  transport_.leave();
}

void LoopbackTransfer::look() {
  for (int peer = 0; peer < hub_->size; ++peer) {
    const std::size_t p = static_cast<std::size_t>(peer);
    if (!taken_[p]) {
      Posted& out = hub_->messages[key(rank_, peer)];
      if (out.copied) {
        taken_[p] = true;
        out.sender_saw = true;
        hub_->forget_if_seen(key(rank_, peer));
      }
    }
    if (!arrived_[p]) {
      Posted& in = hub_->messages[key(peer, rank_)];
      if (!in.copied) continue;
      if (in.wrong_size)
        throw TransportError("rank {} sent {} bytes to rank {}, expected {}", peer, in.sent_bytes,
                             rank_, size_bytes(from_[p]));
      transport_.count_received(purpose_, in.sent_bytes);
      arrived_[p] = true;
      in.receiver_saw = true;
      hub_->forget_if_seen(key(peer, rank_));
    }
  }
}

std::vector<int> LoopbackTransfer::missing() const {
  std::vector<int> ranks;
  for (int peer = 0; peer < hub_->size; ++peer)
    if (!arrived_[static_cast<std::size_t>(peer)] || !taken_[static_cast<std::size_t>(peer)])
      ranks.push_back(peer);
  return ranks;
}

void LoopbackTransfer::require_peers() const {
  std::vector<int> gone;
  for (const int peer : missing())
    if (hub_->lost[static_cast<std::size_t>(peer)]) gone.push_back(peer);
  if (!gone.empty()) throw PeerLost("{} left while rank {} waited for it", name_ranks(gone), rank_);
}

const std::vector<bool>& LoopbackTransfer::arrived() {
  const std::lock_guard lock(hub_->mutex);
  look();
  return arrived_;
}

bool LoopbackTransfer::done() {
  if (finished()) return true;
  const std::lock_guard lock(hub_->mutex);
  look();
  if (finished()) return true;
  require_peers();
  return false;
}

void LoopbackTransfer::wait(Deadline deadline) {
  std::unique_lock lock(hub_->mutex);
  for (;;) {
    look();
    if (finished()) return;
    require_peers();
    if (deadline.passed())
      throw Timeout("rank {} waited for {} ({}) past its deadline", rank_, name_ranks(missing()),
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
