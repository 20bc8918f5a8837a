// One message of each rank to all others, expected from the beginning of a round on: while ranks
// work on something that the transport does not see (a GPU, NCCL), one that is lost is found by its
// report that will not come.
//
// expect() -> check() as often as wanted -> send() -> done() until true. Messages have one size, at
// least one byte. Made by all ranks at the same place in the order of transfers.
#pragma once

#include <memory>
#include <vector>

#include "collectives/transport/transport.h"
#include "core/buffer.h"

namespace ballot {

class PeerReports {
 public:
  PeerReports(Transport& transport, Purpose purpose, std::size_t bytes);

  // The own one is written before send(); another's is read once has_come().
  Bytes message(int rank) const {
    return memory_.bytes().subspan(static_cast<std::size_t>(rank) * bytes_, bytes_);
  }
  void expect();
  // Throws PeerLost, as the transport says it, when somebody whose report is still missing is gone.
  // Looks at one rank a call; never blocks.
  void check();
  void send();
  bool has_come(int rank);
  bool done();
  // One that is under way, for who gives up; null when none is.
  Transfer* missing();
  std::int64_t sent_bytes() const {  // of a round
    return static_cast<std::int64_t>(bytes_) * (static_cast<std::int64_t>(reports_.size()) - 1);
  }

 private:
  const int rank_;
  const std::size_t bytes_;
  Buffer memory_;
  std::vector<std::unique_ptr<Transfer>> reports_;  // by the rank that reports
  std::size_t next_ = 0;                            // to be looked at
  bool expected_ = false, sent_ = false;
};

}  // namespace ballot
