// The links of one rank of a communicator of the stand-in's NCCL to all others, which may be
// threads of this process or other processes of this machine.
//
// Every rank listens at a name made of the communicator's unique id and its rank, and connects to
// the ranks below its own. Nothing waits and no thread runs: progress() does what can be done.
#pragma once

#include <nccl.h>

#include <memory>
#include <string>
#include <vector>

#include "stand_ins/nccl_link.h"

namespace ballot::stand_in {

class World {
 public:
  // Throws Violation when that rank of that id is or was there already.
  World(const ncclUniqueId& id, int rank, int size, int device);
  ~World() { leave(); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Throws Violation where others say what cannot be of the same communicator.
  bool progress(bool within_operation);

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Those from whom nothing was heard yet, named; empty when all have come.
  std::string missing() const;
  // Null for the rank itself and for those that were not met yet.
  Link* link(int peer) const { return links_[peer].get(); }
  bool is_gone(int peer) const { return links_[peer] != nullptr && links_[peer]->gone; }

  // To those that were met. What does not pass at once goes with the next progress.
  void say_to_all(const Message& message);
  bool has_said_all() const;
  // All links end.
  void leave();

 private:
  std::string name_of(int rank) const;
  Message greeting() const;
  void listen_at_own_name();
  void connect_to(int peer);
  void accept_arrivals();
  void meet_arrivals();
  void check(const Message& hello) const;

  int rank_, size_, device_;
  std::string id_;
  int listener_ = -1;
  bool met_all_ = false;
  std::vector<std::unique_ptr<Link>> links_;     // by rank
  std::vector<std::unique_ptr<Link>> arrivals_;  // have not said who they are
};

}  // namespace ballot::stand_in
