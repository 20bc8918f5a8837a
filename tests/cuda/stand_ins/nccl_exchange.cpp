#include "stand_ins/nccl_exchange.h"

#include <fmt/format.h>

#include <algorithm>

#include "stand_ins/failure.h"
#include "stand_ins/nccl_operation.h"  // name_of
#include "stand_ins/work_queue.h"      // delay

namespace ballot::stand_in {
namespace {

std::string describe(const Message& offer, const std::string& verb) {
  const std::string what =
      fmt::format("{} of {}", offer.count, name_of(static_cast<ncclDataType_t>(offer.type)));
  if (offer.of == Message::Of::send) return verb + " " + what;
  return fmt::format("all-reduces {} (its collective {})", what, offer.collective);
}

bool match(const Message& a, const Message& b) {
  return a.of == b.of && a.type == b.type && a.count == b.count && a.collective == b.collective;
}

}  // namespace

void Exchange::send(int peer, const std::byte* from, std::size_t bytes, const Message& offer) {
  sends_.push_back({peer, offer, {const_cast<std::byte*>(from), bytes}});
  sends_.back().offer.kind = Message::Kind::offer;
}

void Exchange::receive(int peer, std::byte* to, std::size_t bytes, const Message& offer) {
  receives_.push_back({peer, offer, {to, bytes}});
}

bool Exchange::grant_and_send(World& world) {
  bool any = false;
  for (Part& part : receives_) {
    Link& link = *world.link(part.peer);
    if (part.granted || link.offers.empty()) continue;
    const Message offer = link.offers.front();
    link.offers.pop_front();
    if (!match(offer, part.offer))
      refuse(cudaErrorInvalidValue, "rank {} {} where rank {} {}", world.rank(),
             describe(part.offer, fmt::format("receives from rank {}", part.peer)), part.peer,
             describe(offer, fmt::format("sends to rank {}", world.rank())));
    link.grant(&part.data);
    part.granted = any = true;
  }
  for (Part& part : sends_) {
    Link& link = *world.link(part.peer);
    if (part.granted || link.grants == 0) continue;
    --link.grants;
    link.send(&part.data);
    part.granted = any = true;
  }
  return any;
}

void Exchange::offer_all(World& world) {
  const bool early = delay() == 0;
  for (Part& part : sends_) {
    world.link(part.peer)->say(part.offer);
    if (!early) continue;
    part.read_early.assign(part.data.memory, part.data.memory + part.data.bytes);
    part.data.memory = part.read_early.data();
  }
}

bool Exchange::run(World& world) {
  if (!offered_) offer_all(world);
  offered_ = true;
  do world.progress(true);
  while (grant_and_send(world));
  const auto complete = [](const Part& part) { return part.data.complete; };
  return std::all_of(sends_.begin(), sends_.end(), complete) &&
         std::all_of(receives_.begin(), receives_.end(), complete);
}

bool Exchange::waits_for(int peer) const {
  const auto waits = [peer](const Part& part) { return part.peer == peer && !part.data.complete; };
  return std::any_of(sends_.begin(), sends_.end(), waits) ||
         std::any_of(receives_.begin(), receives_.end(), waits);
}

std::string Exchange::missing(const World& world) const {
  std::string text;
  const auto add = [&](const Part& part, const std::string& what) {
    if (part.data.complete) return;
    text += (text.empty() ? "" : "; ") + what;
    const Link* link = world.link(part.peer);
    if (link != nullptr && link->gone) text += " (" + link->farewell + ")";
  };
  for (const Part& part : receives_)
    add(part, fmt::format("waits for {} bytes from rank {}", part.data.bytes - part.data.moved,
                          part.peer));
  for (const Part& part : sends_)
    add(part, fmt::format("{} bytes to rank {} not yet taken", part.data.bytes - part.data.moved,
                          part.peer));
  return text;
}

}  // namespace ballot::stand_in
