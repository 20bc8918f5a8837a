// The agreement of voters (VoteStatistics::agreed and compared), tensor by tensor.
//
// Of what one worker has counted, over one step or several: sums over workers and over tensors are
// the totals. Sized once; adding takes no memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/error.h"

namespace ballot {

class SegmentAgreement {
 public:
  SegmentAgreement() = default;
  SegmentAgreement(std::size_t segments, std::size_t voters)
      : voters_(voters), agreed_(segments * voters), compared_(segments * voters) {}

  std::size_t voters() const { return voters_; }
  std::size_t segments() const { return voters_ == 0 ? 0 : agreed_.size() / voters_; }
  std::int64_t agreed(std::size_t segment, std::size_t voter) const {
    return agreed_[place(segment, voter)];
  }
  std::int64_t compared(std::size_t segment, std::size_t voter) const {
    return compared_[place(segment, voter)];
  }
  void add(std::size_t segment, std::size_t voter, std::int64_t agreed, std::int64_t compared) {
    agreed_[place(segment, voter)] += agreed;
    compared_[place(segment, voter)] += compared;
  }
  void add(const SegmentAgreement& other) {
    require(other.voters_ == voters_ && other.agreed_.size() == agreed_.size(),
            "agreement of {} voters in {} tensors is added to that of {} in {}", other.voters_,
            other.segments(), voters_, segments());
    for (std::size_t i = 0; i < agreed_.size(); ++i) {
      agreed_[i] += other.agreed_[i];
      compared_[i] += other.compared_[i];
    }
  }
  void clear() {
    std::ranges::fill(agreed_, 0);
    std::ranges::fill(compared_, 0);
  }
  bool operator==(const SegmentAgreement&) const = default;

 private:
  std::size_t place(std::size_t segment, std::size_t voter) const {
    require(voter < voters_ && segment < segments(), "voter {} of {}, tensor {} of {}", voter,
            voters_, segment, segments());
    return segment * voters_ + voter;
  }
  std::size_t voters_ = 0;
  std::vector<std::int64_t> agreed_, compared_;  // by tensor of the ballot's layout, then voter
};

}  // namespace ballot
