#include "runtime/part_sums.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/clock.h"
#include "core/error.h"
#include "optim/member_gram_sum.h"

namespace ballot {

PartSums::PartSums(Transport& voter, std::vector<int> holders, std::span<const std::int64_t> sides,
                   Duration patience, Deadline deadline)
    : holders_(std::move(holders)) {
  const bool holds = std::ranges::binary_search(holders_, voter.rank());
  std::unique_ptr<Transport> part = voter.split(holds ? 1 : 0, deadline);
  if (!holds) return;
  transport_ = std::move(part);
  sums_ = std::make_unique<MemberGramSum>(sides, *transport_, patience);
}

PartSums::~PartSums() = default;

template <class Body>
auto PartSums::timed(const Body& body) {
  require(sums_ != nullptr, "a sum of parts of {} at a member that holds none", tensor_);
  struct Measure {
    double& seconds;
    Stopwatch watch;
    ~Measure() { seconds += watch.elapsed(); }
  } const measure{seconds_, Stopwatch()};
  try {
    return body();
  } catch (const Timeout& late) {
    throw Timeout("the parts of {} are added up: {} (ranks 0 to {} are members {} of this voter)",
                  tensor_, late.what(), holders_.size() - 1, fmt::join(holders_, ", "));
  }
}

double PartSums::sum(double mine) {
  return timed([&] { return sums_->sum(mine); });
}

void PartSums::sum(const Tensor& gram, Stream& stream) {
  timed([&] { sums_->sum(gram, stream); });
}

Traffic PartSums::traffic() const {
  return transport_ ? transport_->traffic() : Traffic{};
}

}  // namespace ballot
