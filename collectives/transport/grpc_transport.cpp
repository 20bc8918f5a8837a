#include "collectives/transport/grpc_transport.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "collectives/transport/grpc_mesh.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"

namespace ballot {
namespace {

class GrpcGroup;

class GrpcTransfer final : public Transfer {
 public:
  GrpcTransfer(GrpcGroup& group, std::uint64_t number, Purpose purpose,
               std::span<const SendParts> to, std::span<const ReceiveParts> from);
  ~GrpcTransfer() override;
  void start() override;
  bool done() override;
  void wait(Deadline deadline) override;
  const std::vector<bool>& arrived() override;

 private:
  struct Side {                     // one peer
    int peer = 0;                   // its rank among all
    std::unique_ptr<Inbound> in;    // null: nothing comes
    std::unique_ptr<Outbound> out;  // null: nothing goes
  };
  // With the mutex held: takes note of what has arrived; throws on a wrong size.
  void look();
  // With the mutex held: whether all is over; throws when a peer that is needed is gone.
  bool finished() const;
  bool over(std::size_t rank) const {
    const Side& side = sides_[rank];
    return (side.in == nullptr || side.in->arrived) && (side.out == nullptr || side.out->over());
  }
  std::vector<int> missing() const;
  [[noreturn]] void throw_gone(std::size_t rank) const;

  GrpcGroup& group_;
  std::shared_ptr<Mesh> mesh_;
  std::uint64_t number_;
  Purpose purpose_;
  std::vector<Side> sides_;  // by rank in the group; the own one is empty
  std::vector<bool> arrived_;
};

// The transport of all ranks or of a split's.
class GrpcGroup final : public GrpcTransport {
 public:
  GrpcGroup(std::shared_ptr<Mesh> mesh, std::uint64_t id, std::vector<int> members, int rank)
      : mesh_(std::move(mesh)), id_(id), members_(std::move(members)), rank_(rank) {}

  std::string name() const override { return "grpc"; }
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  Traffic traffic() const override { return traffic_; }

  std::uint64_t rejected_frames() const override {
    const std::lock_guard lock(mesh_->signal().mutex);
    return mesh_->rejected_frames();
  }

  void idle(Duration at_most) override {
    MeshSignal& signal = mesh_->signal();
    std::unique_lock lock(signal.mutex);
    signal.changed.wait_until(lock, Deadline::in(at_most).at,
                              [&] { return signal.events != seen_; });
    seen_ = signal.events;
  }

  std::unique_ptr<Transport> split(int color, Deadline deadline) override {
    std::vector<int> colors(members_.size());
    colors[static_cast<std::size_t>(rank_)] = color;
    std::vector<Bytes> from;
    for (int& c : colors) from.push_back(std::as_writable_bytes(std::span(&c, 1)));
    start_gather(Purpose::control, std::as_bytes(std::span(&color, 1)), from)->wait(deadline);
    std::vector<int> members;
    int rank = 0;
    for (std::size_t r = 0; r < colors.size(); ++r) {
      if (colors[r] != color) continue;
      if (static_cast<int>(r) == rank_) rank = static_cast<int>(members.size());
      members.push_back(members_[r]);
    }
    const std::uint64_t id = hash64(id_, splits_++, static_cast<std::uint64_t>(color));
    return std::make_unique<GrpcGroup>(mesh_, id, std::move(members), rank);
  }

  const std::shared_ptr<Mesh>& mesh() const { return mesh_; }
  std::uint64_t id() const { return id_; }
  int member(std::size_t rank) const { return members_[rank]; }
  void count_sent(Purpose purpose, std::uint64_t bytes) {
    traffic_.bytes_sent[static_cast<std::size_t>(purpose)] += bytes;
    ++traffic_.messages_sent[static_cast<std::size_t>(purpose)];
  }
  void count_received(Purpose purpose, std::uint64_t bytes) {
    traffic_.bytes_received[static_cast<std::size_t>(purpose)] += bytes;
  }

 protected:
  std::unique_ptr<Transfer> make_transfer(std::uint64_t number, Purpose purpose,
                                          std::span<const SendParts> to,
                                          std::span<const ReceiveParts> from) override {
    return std::make_unique<GrpcTransfer>(*this, number, purpose, to, from);
  }

 private:
  std::shared_ptr<Mesh> mesh_;
  std::uint64_t id_;
  std::vector<int> members_;  // ranks among all
  int rank_;
  std::uint64_t splits_ = 0, seen_ = 0;
  Traffic traffic_;
};

GrpcTransfer::GrpcTransfer(GrpcGroup& group, std::uint64_t number, Purpose purpose,
                           std::span<const SendParts> to, std::span<const ReceiveParts> from)
    : group_(group),
      mesh_(group.mesh()),
      number_(number),
      purpose_(purpose),
      sides_(to.size()),
      arrived_(to.size(), true) {
  const TransferKey key{group.id(), number};
  for (std::size_t rank = 0; rank < to.size(); ++rank) {
    Side& side = sides_[rank];
    side.peer = group.member(rank);
    if (static_cast<int>(rank) == group.rank()) continue;
    if (!from[rank].empty()) {
      side.in = std::make_unique<Inbound>();
      side.in->key = key;
      side.in->parts = from[rank];
      side.in->total = size_bytes(from[rank]);
    }
    if (!to[rank].empty()) {
      side.out = std::make_unique<Outbound>();
      side.out->key = key;
      side.out->parts = to[rank];
      side.out->total = size_bytes(to[rank]);
      side.out->signal = &mesh_->signal();
    }
  }
  const std::lock_guard lock(mesh_->signal().mutex);
  for (Side& side : sides_) {
    if (side.in != nullptr) mesh_->inbox(side.peer).open(*side.in);
    if (side.out != nullptr) mesh_->outbox(side.peer).open(*side.out);
  }
}

void GrpcTransfer::start() {
  // Everybody starts with another peer, so that a rank is not sent to by all at once.
  const std::size_t ranks = sides_.size();
  const auto for_each_side = [&](const auto& body) {
    for (std::size_t i = 1; i < ranks; ++i) {
      const std::size_t rank = (static_cast<std::size_t>(group_.rank()) + i) % ranks;
      body(rank, sides_[rank]);
    }
  };
  {
    std::unique_lock lock(mesh_->signal().mutex);
    if (mesh_->ended())
      throw TransportError("grpc rank {}: its transport was ended by an earlier failure",
                           group_.rank());
    for (std::size_t rank = 0; rank < ranks; ++rank)
      require(over(rank), "transfer {} of rank {} is started while it is under way", number_,
              group_.rank());
    for_each_side([&](std::size_t rank, Side& side) {
      if (side.in != nullptr) {
        arrived_[rank] = false;
        mesh_->inbox(side.peer).start(*side.in);
        mesh_->outbox(side.peer).announce(side.in->key, side.in->starts - 1);
      }
      if (side.out == nullptr) return;
      group_.count_sent(purpose_, side.out->total);
      if (mesh_->state(side.peer) == PeerState::up)
        mesh_->outbox(side.peer).start(*side.out);
      else
        side.out->failed = true;
    });
    // Sends first: the copies of what came early may take a while.
  }
  for_each_side([&](std::size_t, Side& side) { mesh_->pump(side.peer); });
  std::unique_lock lock(mesh_->signal().mutex);
  for_each_side([&](std::size_t, Side& side) {
    if (side.in != nullptr) mesh_->copy_held(lock, side.peer, *side.in);
  });
}

GrpcTransfer::~GrpcTransfer() {
  MeshSignal& signal = mesh_->signal();
  std::unique_lock lock(signal.mutex);
  bool complete = true;
  for (std::size_t rank = 0; rank < sides_.size(); ++rank) complete = complete && over(rank);
  if (!complete) {
    // Peers that take what this worker has sent already are not to suffer.
    signal.changed.wait_until(lock, Deadline::in(mesh_->linger()).at, [&] {
      return signal.cutting || std::ranges::all_of(sides_, [&](const Side& side) {
               return side.out == nullptr ||
                      (side.out->lent == 0 &&
                       (!side.out->queued || mesh_->outbox(side.peer).blocked(*side.out)));
             });
    });
  }
  const auto lent = [&] {
    return std::ranges::any_of(
        sides_, [](const Side& side) { return side.out != nullptr && side.out->lent > 0; });
  };
  std::vector<FramePayload> garbage;
  for (Side& side : sides_) {
    if (side.out != nullptr) mesh_->outbox(side.peer).close(*side.out);
    if (side.in == nullptr) continue;
    signal.changed.wait(lock, [&] { return !side.in->copying; });
    mesh_->inbox(side.peer).close(*side.in);
    for (FramePayload& payload : mesh_->inbox(side.peer).take_garbage())
      garbage.push_back(std::move(payload));
  }
  if (complete) return;
  const bool stuck = lent();
  lock.unlock();
  mesh_->end();
  if (stuck) {
    mesh_->cut();
    lock.lock();
    const Duration time = mesh_->release_time();
    if (!signal.changed.wait_until(lock, Deadline::in(time).at, [&] { return !lent(); })) {
      log_error("gRPC holds memory of a transfer {} s after its connections were cut: giving up",
                seconds(time));
      std::abort();
    }
  }
}

void GrpcTransfer::look() {
  for (std::size_t rank = 0; rank < sides_.size(); ++rank) {
    if (arrived_[rank]) continue;
    const Inbound& in = *sides_[rank].in;
    if (in.wrong_total)
      throw TransportError("rank {} sent {} bytes to rank {}, expected {}", rank, *in.wrong_total,
                           group_.rank(), in.total);
    if (!in.arrived) continue;
    group_.count_received(purpose_, in.total);
    arrived_[rank] = true;
  }
}

std::vector<int> GrpcTransfer::missing() const {
  std::vector<int> ranks;
  for (std::size_t rank = 0; rank < sides_.size(); ++rank)
    if (!over(rank)) ranks.push_back(static_cast<int>(rank));
  return ranks;
}

void GrpcTransfer::throw_gone(std::size_t rank) const {
  const int peer = sides_[rank].peer;
  const std::string text =
      fmt::format("rank {} at {}: {}, while rank {} waited for it ({})", rank, mesh_->address(peer),
                  mesh_->why(peer), group_.rank(), to_string(purpose_));
  if (mesh_->state(peer) == PeerState::rejected) throw TransportError("{}", text);
  throw PeerLost("{}", text);
}

bool GrpcTransfer::finished() const {
  bool all = true, all_arrived = true;
  // Of those who are gone, the one to blame: who broke the rules, then who was lost first; others
  // may have left because of it.
  const auto blame = [&](std::size_t rank) {
    const PeerState state = mesh_->state(sides_[rank].peer);
    return std::pair(state == PeerState::rejected ? 0
                     : state == PeerState::lost   ? 1
                                                  : 2,
                     mesh_->gone(sides_[rank].peer));
  };
  std::size_t gone = sides_.size(), unwanted = sides_.size();
  for (std::size_t rank = 0; rank < sides_.size(); ++rank) {
    if (over(rank)) continue;
    all = false;
    all_arrived = all_arrived && arrived_[rank];
    const PeerState state = mesh_->state(sides_[rank].peer);
    if (state == PeerState::up) continue;
    if (!arrived_[rank] || state != PeerState::left) {
      if (gone == sides_.size() || blame(rank) < blame(gone)) gone = rank;
    } else if (sides_[rank].out->failed) {
      unwanted = rank;
    }
  }
  if (gone < sides_.size()) throw_gone(gone);
  // It left in good order without what is sent to it: told when there is nothing else to tell.
  if (all_arrived && unwanted < sides_.size()) throw_gone(unwanted);
  return all;
}

const std::vector<bool>& GrpcTransfer::arrived() {
  const std::lock_guard lock(mesh_->signal().mutex);
  look();
  return arrived_;
}

bool GrpcTransfer::done() {
  const std::lock_guard lock(mesh_->signal().mutex);
  look();
  return finished();
}

void GrpcTransfer::wait(Deadline deadline) {
  MeshSignal& signal = mesh_->signal();
  std::unique_lock lock(signal.mutex);
  for (;;) {
    look();
    if (finished()) return;
    if (deadline.passed())
      throw Timeout("rank {} waited for {} ({}) past its deadline", group_.rank(),
                    name_ranks(missing()), to_string(purpose_));
    if (deadline.at == TimePoint::max())
      signal.changed.wait(lock);
    else
      signal.changed.wait_until(lock, deadline.at);
  }
}

}  // namespace

std::unique_ptr<GrpcTransport> make_grpc_transport(const GrpcOptions& options) {
  auto mesh = std::make_shared<Mesh>(options);
  std::vector<int> members;
  for (int r = 0; r < options.size; ++r) members.push_back(r);
  return std::make_unique<GrpcGroup>(std::move(mesh), 0, std::move(members), options.rank);
}

}  // namespace ballot
