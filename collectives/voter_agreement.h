// The last messages of a vote in which nobody has all ballots: every rank tells the others how the
// ballots that it knows agreed with the rest, and, if it wants, what verdict it holds.
//
// Rank r knows the ballots of the voters of its group: `voters_each` voters from r / group_size x
// voters_each on; what the ranks of a group say is added. A few bytes, sent flat to every rank.
// Private to collectives and its tests.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "collectives/message.h"
#include "collectives/verdict.h"
#include "core/buffer.h"  // Buffer

namespace ballot {

class VoterAgreement {
 public:
  VoterAgreement(Transport& transport, int group_size, int voters_each);

  // Of this rank's i-th voter; to be added to before advance().
  std::int64_t& agreed(int i) { return numbers(rank_)[1 + 2 * i]; }
  std::int64_t& compared(int i) { return numbers(rank_)[2 + 2 * i]; }
  // Of this rank's verdict, part by part in any order. A rank with another sum is a TransportError
  // that names it.
  void add_digest(std::uint64_t digest);

  // The first call of a step sends; `header` is this rank's, chunk and kind as all use them. True
  // once all have come: `statistics` has agreed and compared of all voters, and the next step's
  // begin at zero.
  bool advance(const MessageHeader& header, VoteStatistics& statistics);
  Transfer& transfer() { return *transfer_; }
  // What a rank sends in a step.
  std::int64_t sent_bytes() const;

 private:
  void check(int rank, MessageHeader header) const;
  std::int64_t* numbers(int rank) const {
    return reinterpret_cast<std::int64_t*>(message(rank).data() + kHeaderBytes);
  }
  Bytes message(int rank) const {
    return memory_.bytes().subspan(static_cast<std::size_t>(rank) * bytes_, bytes_);
  }

  const int rank_, ranks_, group_size_, voters_each_;
  const std::size_t bytes_;
  Buffer memory_;  // a message of each rank
  std::unique_ptr<Transfer> transfer_;
  bool sent_ = false;
};

}  // namespace ballot
