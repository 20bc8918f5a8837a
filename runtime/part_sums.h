// The sums that the members who hold a cut tensor's parts need of each other, with what is not a
// sum's own matter: whom they wait for, and how long that took.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectives/transport/transport.h"
#include "optim/newton_schulz.h"

namespace ballot {

class PartSums final : public GramSum {
 public:
  // Collective over `voter`, all members: also those who hold no part. `holders`: ascending, this
  // member among them or not. `sides`: of all the Gram matrices that will come, equal everywhere.
  PartSums(Transport& voter, std::vector<int> holders, std::span<const std::int64_t> sides,
           Duration patience, Deadline deadline);
  ~PartSums() override;

  // Of which tensor the next sums are: what a Timeout says. Only holders sum.
  void work_on(const std::string& tensor) { tensor_ = tensor; }
  double sum(double mine) override;
  void sum(const Tensor& gram, Stream& stream) override;

  double seconds() const { return seconds_; }  // in sums so far
  Traffic traffic() const;

 private:
  template <class Body>
  auto timed(const Body& body);

  const std::vector<int> holders_;
  std::unique_ptr<Transport> transport_;  // of the holders; null: this member is none
  std::unique_ptr<GramSum> sums_;
  std::string tensor_;
  double seconds_ = 0;
};

}  // namespace ballot
