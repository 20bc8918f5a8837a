#include "runtime/elastic/member_orders.h"

#include <span>

#include "core/error.h"

namespace ballot {

const char* to_string(MemberOrder::Kind kind) {
  switch (kind) {
    case MemberOrder::Kind::idle:
      return "idle";
    case MemberOrder::Kind::cast:
      return "cast";
    case MemberOrder::Kind::apply:
      return "apply";
    case MemberOrder::Kind::load_start:
      return "load_start";
    case MemberOrder::Kind::load:
      return "load";
    case MemberOrder::Kind::begin_checkpoint:
      return "begin_checkpoint";
    case MemberOrder::Kind::look_at_checkpoint:
      return "look_at_checkpoint";
    case MemberOrder::Kind::evaluate:
      return "evaluate";
    case MemberOrder::Kind::end:
      return "end";
  }
  return "unknown";
}

MemberOrders::MemberOrders(Transport& members, std::uint64_t most_bytes, Duration patience)
    : members_(members),
      most_bytes_(most_bytes),
      patience_(patience),
      last_(system_clock().now()) {}

void MemberOrders::send(ConstBytes bytes) {
  std::vector<SendParts> to(static_cast<std::size_t>(members_.size()));
  std::vector<ReceiveParts> from(to.size());
  for (std::size_t m = 1; m < to.size(); ++m) to[m] = {bytes};
  members_.start_exchange(Purpose::control, to, from)->wait(Deadline::in(patience_));
}

void MemberOrders::receive(Bytes bytes, Deadline deadline) {
  std::vector<SendParts> to(static_cast<std::size_t>(members_.size()));
  std::vector<ReceiveParts> from(to.size());
  from[0] = {bytes};
  members_.start_exchange(Purpose::control, to, from)->wait(deadline);
}

void MemberOrders::tell(MemberOrder order, ConstBytes what_follows) {
  require(members_.rank() == 0, "member {} gives the order {}", members_.rank(),
          to_string(order.kind));
  require(what_follows.size() <= most_bytes_, "{} bytes follow the order {}, at most {} may",
          what_follows.size(), to_string(order.kind), most_bytes_);
  order.bytes = what_follows.size();
  send(std::as_bytes(std::span(&order, 1)));
  if (order.bytes > 0) send(what_follows);
  last_ = system_clock().now();
}

MemberOrders::Received MemberOrders::take() {
  Received received;
  const Deadline deadline = Deadline::in(patience_);
  receive(std::as_writable_bytes(std::span(&received.order, 1)), deadline);
  if (received.order.bytes > most_bytes_)
    throw TransportError("{} bytes follow the order {} of the first member, expected at most {}",
                         received.order.bytes, to_string(received.order.kind), most_bytes_);
  received.bytes.resize(received.order.bytes);
  if (!received.bytes.empty()) receive(received.bytes, deadline);
  return received;
}

}  // namespace ballot
