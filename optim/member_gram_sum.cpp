#include "optim/member_gram_sum.h"

#include <algorithm>
#include <map>
#include <vector>

#include "collectives/mean.h"
#include "core/copy.h"
#include "core/error.h"
#include "core/parallel.h"

namespace ballot {
namespace {

BALLOT_VECTORIZED void scale(const float* x, float* y, std::int64_t count, float factor) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = factor * x[i];
}

}  // namespace

struct MemberGramSum::State {
  Transport& members;
  Duration patience;
  std::map<std::int64_t, std::unique_ptr<Mean>> means;  // by side
  std::int64_t sums = 0;
};

MemberGramSum::MemberGramSum(std::span<const std::int64_t> sides, Transport& members,
                             Duration patience)
    : state_(std::make_unique<State>(State{members, patience, {}, 0})) {
  std::vector<std::int64_t> ascending(sides.begin(), sides.end());
  std::ranges::sort(ascending);  // transfers are opened in one order on all members
  for (const std::int64_t side : ascending) {
    require(side > 0, "a Gram matrix with side {}", side);
    std::unique_ptr<Mean>& mean = state_->means[side];
    if (!mean)
      mean = std::make_unique<Mean>(std::vector<std::int64_t>{side * side}, DType::f32, members);
  }
}

MemberGramSum::~MemberGramSum() = default;

double MemberGramSum::sum(double mine) {
  Transport& members = state_->members;
  std::vector<double> all(static_cast<std::size_t>(members.size()));
  all[static_cast<std::size_t>(members.rank())] = mine;
  std::vector<Bytes> from;
  for (double& value : all) from.push_back(std::as_writable_bytes(std::span(&value, 1)));
  members.start_gather(Purpose::mean, std::as_bytes(std::span(&mine, 1)), from)
      ->wait(Deadline::in(state_->patience));
  double total = 0;
  for (const double value : all) total += value;
  return total;
}

void MemberGramSum::sum(const Tensor& gram, Stream& stream) {
  const std::int64_t side = gram.extent[0], count = side * side;
  const auto found = state_->means.find(side);
  require(found != state_->means.end() && gram.extent[1] == side && gram.is_contiguous(),
          "a sum of {}: no such side was announced", gram.describe());
  Mean& mean = *found->second;
  const auto rescale = [count](const float* from, float* to, float factor) {
    parallel_for(count, 4096, [&](std::int64_t begin, std::int64_t end) {
      scale(from + begin, to + begin, end - begin, factor);
    });
  };
  mean.begin(++state_->sums);
  copy_bytes(mean.values().data(), Device{}, gram.data, gram.device, mean.values().size_bytes(),
             stream);
  stream.synchronize();
  mean.reduce(Deadline::in(state_->patience));
  const auto members = static_cast<float>(state_->members.size());
  if (gram.device.kind == Device::Kind::cuda) {
    rescale(mean.values().data(), mean.values().data(), members);
    copy_bytes(gram.data, gram.device, mean.values().data(), Device{}, mean.values().size_bytes(),
               stream);
  } else {
    rescale(mean.values().data(), gram.f32(), members);
  }
}

}  // namespace ballot
