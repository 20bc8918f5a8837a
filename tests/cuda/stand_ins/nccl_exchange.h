// Messages that a rank of the stand-in's NCCL sends and receives at once: all make progress
// together, and those between two ranks match in their order. What is sent is read as early as it
// may be, or as late: where the order between streams is eager or lazy, always.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "stand_ins/nccl_world.h"

namespace ballot::stand_in {

class Exchange {
 public:
  // `offer` is what the sender says and what the receiver expects to hear.
  void send(int peer, const std::byte* from, std::size_t bytes, const Message& offer);
  void receive(int peer, std::byte* to, std::size_t bytes, const Message& offer);

  // Whether all is there and all was taken. Throws Violation where an offer is not what was
  // expected, naming both.
  bool run(World& world);

  bool waits_for(int peer) const;
  std::string missing(const World& world) const;

 private:
  struct Part {
    int peer;
    Message offer;
    Moving data;
    bool granted = false;
    std::vector<std::byte> read_early{};
  };
  void offer_all(World& world);
  bool grant_and_send(World& world);

  std::deque<Part> sends_, receives_;
  bool offered_ = false;
};

}  // namespace ballot::stand_in
