#include "collectives/voter_agreement.h"

#include <algorithm>

#include "core/error.h"

namespace ballot {

VoterAgreement::VoterAgreement(Transport& transport, int group_size, int voters_each)
    : rank_(transport.rank()),
      ranks_(transport.size()),
      group_size_(group_size),
      voters_each_(voters_each),
      bytes_(kHeaderBytes + static_cast<std::size_t>(1 + 2 * voters_each) * sizeof(std::int64_t)),
      memory_(bytes_ * static_cast<std::size_t>(ranks_)) {
  std::vector<SendParts> to(static_cast<std::size_t>(ranks_), SendParts{message(rank_)});
  std::vector<ReceiveParts> from;
  for (int r = 0; r < ranks_; ++r) from.push_back({message(r)});
  to[static_cast<std::size_t>(rank_)].clear();
  from[static_cast<std::size_t>(rank_)].clear();
  transfer_ = transport.open_exchange(Purpose::vote, to, from);
}

void VoterAgreement::add_digest(std::uint64_t digest) {
  numbers(rank_)[0] =
      static_cast<std::int64_t>(static_cast<std::uint64_t>(numbers(rank_)[0]) + digest);
}

bool VoterAgreement::advance(const MessageHeader& header, VoteStatistics& statistics) {
  if (!sent_) {
    if (ranks_ > 1) seal_message(header, message(rank_));
    transfer_->start();
    sent_ = true;
  }
  if (!transfer_->done()) return false;
  for (int r = 0; r < ranks_; ++r) {
    if (r != rank_) check(r, header);
    for (int i = 0; i < voters_each_; ++i) {
      const std::size_t voter = static_cast<std::size_t>(r / group_size_ * voters_each_ + i);
      statistics.agreed[voter] += numbers(r)[1 + 2 * i];
      statistics.compared[voter] += numbers(r)[2 + 2 * i];
    }
  }
  std::fill_n(numbers(rank_), 1 + 2 * voters_each_, 0);
  sent_ = false;
  return true;
}

void VoterAgreement::check(int rank, MessageHeader header) const {
  header.sender = static_cast<std::uint32_t>(rank);
  check_message(header, message(rank));
  if (numbers(rank)[0] != numbers(rank_)[0])
    throw TransportError(
        "the verdict of step {} has the digest {:016x} on rank {}, {:016x} on rank {}: what was "
        "summed was damaged",
        header.step, static_cast<std::uint64_t>(numbers(rank)[0]), rank,
        static_cast<std::uint64_t>(numbers(rank_)[0]), rank_);
}

std::int64_t VoterAgreement::sent_bytes() const {
  return static_cast<std::int64_t>(bytes_) * (ranks_ - 1);
}

}  // namespace ballot
