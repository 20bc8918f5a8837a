// The sums of a cut matrix over the members that hold its parts, by a transport of just them.
//
// A GPU's Gram matrix is copied to the host, summed there and copied back. Sums go in the order of
// ranks, at one owner for each slice (collectives/mean.h), so that all members have the same bits:
// they must, or their parts would drift apart over the iterations. One thread at a time; every
// member makes the same calls in the same order, also with other matrices.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "collectives/transport/transport.h"
#include "optim/newton_schulz.h"

namespace ballot {

class MemberGramSum final : public GramSum {
 public:
  // `sides`: of the matrices that will come, any order, repeated or not; equal on all members. Each
  // sum takes at most `patience`, then throws Timeout naming the ranks waited for.
  MemberGramSum(std::span<const std::int64_t> sides, Transport& members, Duration patience);
  ~MemberGramSum() override;

  double sum(double mine) override;
  void sum(const Tensor& gram, Stream& stream) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ballot
